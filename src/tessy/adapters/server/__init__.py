"""Clients of OpenAI-compatible servers: vLLM and SGLang first, others as they allow.

`engine` asks for completions (`/v1/completions`), `chat` for replies (`/v1/chat/completions`), `pooling` for classes of
tokens (`/pooling`), `settings` how a server is set; `stream` reads a turn while it is written; `pool` retries and
chooses replicas, `transport` sends, over `connection` where a reply is a stream. `wire`, `chat_wire`, `sse` and `http`
are the words of the protocols, `gate` how many requests may be in flight, `replica` whether a server lives: these do
no I/O. Knows nothing of cooperation.
"""

from tessy.adapters.server.chat import GREEDY, NO_THINKING, ChatClient
from tessy.adapters.server.chat_wire import ChatDialect, ChatReply, Constraint
from tessy.adapters.server.engine import ServerCompleter, ServerEngine
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.pooling import ClassifierServer
from tessy.adapters.server.settings import Brand, ServerSettings, server_settings, streams
from tessy.adapters.server.wire import Dialect, IdsOut, ServedModel, TokenCount, api_root

__all__ = [
    "GREEDY",
    "NO_THINKING",
    "Brand",
    "ChatClient",
    "ChatDialect",
    "ChatReply",
    "ClassifierServer",
    "Constraint",
    "Dialect",
    "IdsOut",
    "ServedModel",
    "ServerCompleter",
    "ServerEngine",
    "ServerOptions",
    "ServerSettings",
    "TokenCount",
    "api_root",
    "server_settings",
    "streams",
]
