"""`python -m tessy.adapters.fakes --port 8001`: a scripted model behind vLLM's API, in a process of its own.

For benchmarks and for a first look without a model. Prints its base URL when it serves, and stops at SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from tessy.adapters.fakes import ByteTokenizer, FakeServer, PairTokenizer, ScriptedModel, Voice


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    tokenizer = PairTokenizer() if arguments.vocabulary == "pairs" else ByteTokenizer()
    clauses = (arguments.clauses, max(arguments.clauses, arguments.most_clauses))
    model = ScriptedModel(tokenizer, Voice[arguments.voice.upper()], clauses=clauses, salt=arguments.salt)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    name, port = arguments.name, arguments.port
    async with FakeServer(model, name=name, latency=arguments.latency, port=port) as server:
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
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
