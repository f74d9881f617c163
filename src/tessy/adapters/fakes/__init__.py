"""Scripted stand-ins for models, predictors and servers: shipped, and used by tests, docs and benchmarks.

Deterministic, cheap and torch-free. `FakeEngine` answers in this process, `FakeServer` over a real socket in vLLM's
dialect (`python -m tessy.adapters.fakes` serves one by itself). They know the protocols and nothing of the run.
"""

from tessy.adapters.fakes.model import FakeEngine, ScriptedBoundary, ScriptedModel, Voice
from tessy.adapters.fakes.server import FakeServer, Fault, Traits
from tessy.adapters.fakes.vocabulary import ByteTokenizer, PairTokenizer

__all__ = [
    "ByteTokenizer",
    "FakeEngine",
    "FakeServer",
    "Fault",
    "PairTokenizer",
    "ScriptedBoundary",
    "ScriptedModel",
    "Traits",
    "Voice",
]
