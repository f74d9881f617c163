"""Completion engine for OpenAI-compatible servers (`/v1/completions`): vLLM and SGLang first, others as they allow.

`engine` retries and chooses replicas, `transport` sends; `wire` is the words of the protocol, `gate` how many requests
may be in flight, `replica` whether a server lives: these three do no I/O. Knows nothing of cooperation.
"""

from tessy.adapters.server.engine import ServerCompleter, ServerEngine
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.wire import Dialect, IdsOut, ServedModel, TokenCount, api_root

__all__ = [
    "Dialect",
    "IdsOut",
    "ServedModel",
    "ServerCompleter",
    "ServerEngine",
    "ServerOptions",
    "TokenCount",
    "api_root",
]
