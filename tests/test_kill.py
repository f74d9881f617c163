"""`kill -9` at fifty random moments of a run, and each time a restart: nothing is lost, doubled or torn."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import yaml

from killing import LATENCY, Killer, Log, asked, forker, watched
from runs import check_books, config, failures, fields, kept, write_questions
from tessy.programs.run import synthesize

KILLS = 50
QUESTIONS = 60
CONCURRENCY = 8


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
