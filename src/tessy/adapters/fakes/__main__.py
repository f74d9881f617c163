"""`python -m tessy.adapters.fakes --port 8001`: a scripted model behind vLLM's API, in a process of its own.

With `--annotator` a chat model that knows the style of the embedded pair's texts, as exactly or as badly as ordered.
For benchmarks and for a first look without a model. Prints its base URL when it serves, and stops at SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from tessy.adapters.fakes import (
    ByteTokenizer,
    FakeChat,
    FakeServer,
    OracleAnnotator,
    PairTokenizer,
    ScriptedModel,
    Traits,
    Voice,
)

NOISE = {
    "drop": "how likely an annotator leaves a span out",
    "shift": "how likely it moves a span by one to three words",
    "invent": "how likely it invents a span beside a true one",
    "prose": "how likely it replies in prose",
    "fenced": "how likely its reply stands in a code fence",
}


def _server(arguments: argparse.Namespace) -> FakeServer | FakeChat:
    name, port, latency = arguments.name, arguments.port, arguments.latency
    if arguments.annotator:
        noise = {field: getattr(arguments, field) for field in NOISE}
        return FakeChat(OracleAnnotator(**noise, seed=arguments.salt), name=name, latency=latency, port=port)
    tokenizer = PairTokenizer() if arguments.vocabulary == "pairs" else ByteTokenizer()
    clauses = (arguments.clauses, max(arguments.clauses, arguments.most_clauses))
    model = ScriptedModel(tokenizer, Voice[arguments.voice.upper()], clauses=clauses, salt=arguments.salt)
    traits = Traits(per_event=arguments.per_event, max_model_len=arguments.max_model_len)
    return FakeServer(model, name=name, latency=latency, pace=arguments.pace, port=port, traits=traits)


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with _server(arguments) as server:
        print(server.base_url, flush=True)
        await stopped.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tessy.adapters.fakes", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--name", default="scripted", help="name of the served model")
    parser.add_argument("--vocabulary", choices=("bytes", "pairs"), default="bytes")
    parser.add_argument("--voice", choices=("student", "teacher"), default="student")
    parser.add_argument("--clauses", type=int, default=3, help="fewest clauses of a thinking")
    parser.add_argument("--most-clauses", type=int, default=12)
    parser.add_argument("--salt", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a completion takes")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two events of a stream")
    parser.add_argument("--per-event", type=int, default=1, help="tokens that an event tells")
    parser.add_argument("--max-model-len", type=int, default=Traits().max_model_len, help="context in tokens")
    parser.add_argument("--annotator", action="store_true", help="serve the annotator instead")
    for field, meaning in NOISE.items():
        parser.add_argument(f"--{field}", type=float, default=0.0, help=meaning)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
