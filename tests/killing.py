"""Runs in processes of their own, to be killed in the middle of their work, and servers that keep a log of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from runs import STUDENT, TEACHER, Servers
from tessy.adapters.fakes import FakeServer, Fault
from tessy.adapters.fakes.http import Streamed

LATENCY = 0.01


@dataclass
class Log:
    """What both servers were asked for in a run; the check before it is left out."""

    written: dict[bytes, int] = field(default_factory=dict)
    """For each request, as it came, how many tokens were written for it."""
    again: list[bytes] = field(default_factory=list)
    """The requests that had come before."""
    latest: dict[str, bytes] = field(default_factory=dict)
    """For each question its latest request."""


@dataclass(eq=False)
class Watched(FakeServer):
    """A server that keeps a log."""

    log: Log = field(default_factory=Log)

    def answer(self, path: bytes, head: bytes, body: bytes) -> tuple[Fault | Streamed, float]:
        before = self.generated
        reply = super().answer(path, head, body)
        asked = re.search(r"What is \d+", self.model.tokenizer.decode(prompt_of(body)))
        if asked:
            if body in self.log.written:
                self.log.again.append(body)
            self.log.written[body] = self.generated - before
            self.log.latest[asked[0]] = body
        return reply


def prompt_of(body: bytes) -> list[int]:
    prompt = orjson.loads(body)["prompt"] if body else []
    return prompt if isinstance(prompt, list) else []


@asynccontextmanager
async def watched() -> AsyncIterator[tuple[Servers, Log]]:
    log = Log()
    async with (
        Watched(STUDENT, latency=LATENCY, log=log) as student,
        Watched(TEACHER, latency=LATENCY, log=log) as teacher,
    ):
        yield Servers(student, teacher), log


@asynccontextmanager
async def forker() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("forker.py")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


@dataclass
class Killer:
    """Begins runs, and ends them."""

    process: asyncio.subprocess.Process
    path: Path

    async def begin(self) -> int:
        """Begin the run again; its process id."""
        assert self.process.stdin
        self.process.stdin.write(f"{self.path}\n".encode())
        return await self._number()

    async def end(self) -> int:
        """Wait until it is gone; its exit code."""
        return await self._number()

    async def _number(self) -> int:
        assert self.process.stdout
        return int(await asyncio.wait_for(self.process.stdout.readline(), 60))

    async def kill_at(self, at: Servers, more: int, seconds: float) -> None:
        """Begin the run, and kill it in the middle of its work: some time after so many more requests."""
        pid = await self.begin()
        ending = asyncio.create_task(self.end())
        await asked(at, at.requests + more, ending)
        await asyncio.sleep(seconds)
        assert not ending.done(), "the run was over before its kill"
        os.kill(pid, signal.SIGKILL)
        assert await ending == -signal.SIGKILL


async def asked(at: Servers, requests: int, ending: asyncio.Task[int]) -> None:
    """Wait until the servers were asked so often, or the run is over."""
    while at.requests < requests and not ending.done():  # noqa: ASYNC110 - a condition of three objects
        await asyncio.sleep(0.001)
