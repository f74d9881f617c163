"""`kill -9` at fifty random moments of a run, and each time a restart: nothing is lost, doubled or torn."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import yaml

from runs import STUDENT, TEACHER, Servers, check_books, config, failures, fields, kept, write_questions
from tessy.adapters.fakes import FakeServer, Fault
from tessy.adapters.fakes.http import Streamed
from tessy.programs.run import synthesize

KILLS = 50
QUESTIONS = 60
CONCURRENCY = 8
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


async def test_kills_in_the_middle_of_streams_change_no_text(tmp_path: Path) -> None:
    draws = random.Random(5)
    write_questions(tmp_path / "questions.jsonl", range(QUESTIONS))
    async with watched() as (at, _):
        await synthesize(config(tmp_path, at, run_dir=str(tmp_path / "undisturbed"), stream=False))
    async with watched() as (at, _), forker() as process:
        at.student.pace = at.teacher.pace = 0.0005
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(fields(tmp_path, at, concurrency=CONCURRENCY)), encoding="utf-8")
        killer, streamed = Killer(process, path), 0
        for _ in range(10):
            pid = await killer.begin()
            ending = asyncio.create_task(killer.end())
            await asked(at, at.requests + draws.randrange(20, 60), ending)
            assert not ending.done(), "the run was over before its kill"
            streamed += at.student.last.get("stream", False)
            os.kill(pid, signal.SIGKILL)
            assert await ending == -signal.SIGKILL
        await killer.begin()
        assert await killer.end() == 0
        summary = await synthesize(config(tmp_path, at))
    check_books(summary, tmp_path / "run")
    assert streamed
    assert failures(tmp_path / "run") == []
    assert kept(tmp_path / "run") == kept(tmp_path / "undisturbed")


async def test_fifty_kills_lose_nothing_double_nothing_and_tear_nothing(tmp_path: Path) -> None:
    draws = random.Random(4)
    write_questions(tmp_path / "questions.jsonl", range(QUESTIONS))
    async with watched() as (at, undisturbed):
        await synthesize(config(tmp_path, at, run_dir=str(tmp_path / "undisturbed"), stream=False))
    assert not undisturbed.again
    share = len(undisturbed.written) // KILLS

    async with watched() as (at, log), forker() as process:
        path = tmp_path / "run.yaml"
        path.write_text(
            yaml.safe_dump(fields(tmp_path, at, concurrency=CONCURRENCY, stream=False)), encoding="utf-8"
        )
        killer, under_way = Killer(process, path), set[bytes]()
        for _ in range(KILLS):
            # One in ten dies before it asks anything, most in the middle of their work.
            more = draws.randrange(share) if draws.random() < 0.9 else 0
            await killer.kill_at(at, more, draws.uniform(0, 2 * LATENCY))
            await asyncio.sleep(0.01)  # what it had sent is read
            check_again(log, under_way)
            under_way = set(log.latest.values())
        await killer.begin()
        assert await killer.end() == 0
        check_again(log, under_way)
        assert log.written == undisturbed.written

        requests = at.requests
        summary = await synthesize(config(tmp_path, at, stream=False))
        assert at.requests == requests
    check_books(summary, tmp_path / "run")
    assert summary.kept == QUESTIONS
    assert failures(tmp_path / "run") == []
    assert kept(tmp_path / "run") == kept(tmp_path / "undisturbed")


def check_again(log: Log, under_way: set[bytes]) -> None:
    """What was asked for again since a kill is what was under way at it: the latest request of a trajectory."""
    assert set(log.again) <= under_way
    assert len(log.again) == len(set(log.again)) <= CONCURRENCY
    log.again.clear()
