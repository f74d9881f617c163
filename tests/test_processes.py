"""One run in several processes: the same rows, each once, whoever of them is killed and however many go on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from killing import Killer, Log, asked, forker, watched
from runs import Servers, check_books, config, failures, fields, kept, servers, write_questions
from tessy.adapters.fakes import Fault
from tessy.core.cooperate import Response
from tessy.core.strategies import Grade, Job
from tessy.errors import ConfigError, RunError
from tessy.programs.config import RunConfig, differences, validate
from tessy.programs.progress import Progress
from tessy.programs.run import synthesize

QUESTIONS = 40
CONCURRENCY = 8
PROBES = 4
"""The most completions that a check, or a process that begins, asks of each server."""


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    yield
    assert workers_of(os.getpid()) == []


def workers_of(parent: int) -> list[psutil.Process]:
    """Its workers, and who is dead and not taken note of."""
    found = []
    for process in psutil.Process(parent).children():
        with suppress(psutil.NoSuchProcess):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if zombie or "tessy.programs.processes" in process.cmdline():
                found.append(process)
    return found


def steps_left(run_dir: Path) -> int:
    """How many steps a run that is at rest has on record, all of them in one place."""
    assert not list(run_dir.glob("steps-*"))
    with closing(sqlite3.connect(run_dir / "state.sqlite")) as db:
        return int(
            db.execute("SELECT COUNT(*) FROM steps WHERE id NOT IN (SELECT id FROM kept)").fetchone()[0]
        )


def ask(folder: Path, count: int = QUESTIONS) -> None:
    write_questions(folder / "questions.jsonl", range(count))


async def by_one(folder: Path, **given: Any) -> Log:
    """What one process makes of the questions, in `folder/one`, and what it asks for."""
    ask(folder)
    async with watched() as (at, log):
        await synthesize(config(folder, at, run_dir=str(folder / "one"), stream=False, **given))
    return log


def check_same(folder: Path) -> None:
    """All rows are there, and they are those of one process."""
    assert kept(folder / "run") == kept(folder / "one")
    assert len(kept(folder / "run")) == QUESTIONS
    assert failures(folder / "run") == []
    assert steps_left(folder / "run") == 0


# The same as one process


@pytest.mark.parametrize("number", [2, 3])
async def test_what_several_processes_ask_and_write_is_what_one_does(tmp_path: Path, number: int) -> None:
    given: dict[str, Any] = {"seed": 3, "sampling": {"temperature": 0.9}}
    one = await by_one(tmp_path, **given)
    async with watched() as (at, several):
        run = config(tmp_path, at, processes=number, concurrency=CONCURRENCY, stream=False, **given)
        summary = await synthesize(run)
        assert max(at.student.max_in_flight, at.teacher.max_in_flight) > CONCURRENCY // number
        assert at.student.max_in_flight + at.teacher.max_in_flight <= 2 * CONCURRENCY
    check_books(summary, tmp_path / "run")
    check_same(tmp_path)
    assert several.written == one.written  # request for request, seeds and all


async def test_the_counts_are_those_of_one_process(tmp_path: Path) -> None:
    ask(tmp_path)
    progress, summaries, served = {}, {}, {}
    for number in (1, 3):
        progress[number] = Progress()
        async with servers() as at:
            run = config(tmp_path, at, processes=number, run_dir=str(tmp_path / str(number)), stream=False)
            summaries[number] = await synthesize(run, progress=progress[number])
            served[number] = at.generated
    one, three = progress[1], progress[3]
    assert three.tokens == one.tokens
    assert three.row_tokens == one.row_tokens == sum(summaries[3].totals.tokens.values())
    assert summaries[3].totals == summaries[1].totals
    for speaker, stats in three.engines.items():
        assert stats.requests == one.engines[speaker].requests
        assert 0 <= stats.generated - one.engines[speaker].generated <= 3 * PROBES
        assert stats.in_flight == 0
    assert sum(stats.generated for stats in three.engines.values()) <= served[3]


async def test_metadata_stays_what_it_is(tmp_path: Path) -> None:
    ask(tmp_path, 3)
    async with servers() as at:
        await synthesize(config(tmp_path, at, processes=2, trajectories=2))
    rows = kept(tmp_path / "run").values()
    assert len(rows) == 6
    assert all(row.question.metadata == {"gold": 2 * int(row.question.text.split()[2])} for row in rows)


# Servers that fail


async def test_a_trajectory_whose_server_failed_goes_on_from_its_last_step(tmp_path: Path) -> None:
    one = await by_one(tmp_path)
    fault = Fault.error(500, "EngineCore encountered an issue")
    async with watched() as (at, several):
        at.teacher.fault = lambda number: fault if number > 20 and number % 9 == 0 else None
        patience = {"retries": 0, "connect_seconds": 2, "read_seconds": 2}
        run = config(tmp_path, at, processes=2, attempts=50, stream=False, requests=patience)
        progress = Progress()
        summary = await synthesize(run, progress=progress)
    check_books(summary, tmp_path / "run", attempts=50)
    assert len(failures(tmp_path / "run")) > 5
    assert {row["reason"] for row in failures(tmp_path / "run")} == {"http_500"}
    assert all(at.teacher.base_url in words for words in progress.errors)
    texts = {name: (row.spans, row.answer) for name, row in kept(tmp_path / "run").items()}
    assert texts == {name: (row.spans, row.answer) for name, row in kept(tmp_path / "one").items()}
    assert several.written.keys() == one.written.keys()
    assert len(several.again) <= len(failures(tmp_path / "run"))  # but what had failed


async def test_a_text_that_went_wrong_begins_anew_and_fails_for_good(tmp_path: Path) -> None:
    ask(tmp_path, 6)
    async with servers() as at:
        limits = {"thinking_tokens": 60}
        summary = await synthesize(config(tmp_path, at, processes=2, attempts=2, limits=limits))
    check_books(summary, tmp_path / "run", attempts=2)
    assert (summary.kept, summary.failures) == (0, {"thinking_limit": 6})
    assert steps_left(tmp_path / "run") == 0


# Stops and kills


async def test_a_stop_at_any_moment_loses_nothing_and_any_number_goes_on(tmp_path: Path) -> None:
    one = await by_one(tmp_path)
    async with watched() as (at, several):
        stops = 0
        while True:
            stop, due = asyncio.Event(), at.requests + len(one.written) // 4

            def press(_: int, stop: asyncio.Event = stop, due: int = due) -> None:
                if at.requests >= due:
                    stop.set()

            at.student.fault = at.teacher.fault = press
            run = config(tmp_path, at, processes=(3, 1, 2)[stops % 3], concurrency=8, stream=False)
            summary = await synthesize(run, stop=stop)
            check_books(summary, tmp_path / "run")
            if not summary.stopped_because:
                break
            stops += 1
            assert summary.stopped_because == "interrupted"
            assert steps_left(tmp_path / "run")
        assert 2 <= stops < 10
    check_same(tmp_path)
    assert several.written == one.written
    assert len(several.again) <= stops * CONCURRENCY + (stops + 1) * 3 * 2 * PROBES


async def test_kills_of_any_process_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """The parent, one worker or all are killed at random moments; each time another number of processes goes on."""
    draws = random.Random(6)
    one = await by_one(tmp_path)
    share = len(one.written) // 8
    async with watched() as (at, several), forker() as process:
        killer = Killer(process, tmp_path / "run.yaml")
        for turn in range(6):
            configure(tmp_path, at, processes=(3, 2, 1, 3, 2, 3)[turn])
            pid = await killer.begin()
            ending = asyncio.create_task(killer.end())
            await asked(at, at.requests + draws.randrange(share), ending)
            if turn % 2 and (workers := workers_of(pid)):
                draws.choice(workers).kill()  # another one takes its place
                await asked(at, at.requests + draws.randrange(share // 2), ending)
            await asyncio.sleep(draws.uniform(0, 0.02))
            assert not ending.done(), "the run was over before its kill"
            for each in [*workers_of(pid), psutil.Process(pid)] if turn % 3 == 2 else [psutil.Process(pid)]:
                each.kill()
            assert await ending == -signal.SIGKILL
        configure(tmp_path, at, processes=2)
        await killer.begin()
        assert await killer.end() == 0
        summary = await synthesize(config(tmp_path, at, stream=False))
    check_books(summary, tmp_path / "run")
    check_same(tmp_path)
    assert several.written == one.written


def configure(folder: Path, at: Servers, **given: Any) -> None:
    run = fields(folder, at, concurrency=CONCURRENCY, stream=False, **given)
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")


async def test_where_a_worker_is_killed_another_one_goes_on(tmp_path: Path) -> None:
    one = await by_one(tmp_path)
    killed: list[int] = []
    async with watched() as (at, several):

        def kill(_: int) -> None:
            if at.requests in (200, 400, 600):
                worker = workers_of(os.getpid())[0]
                worker.kill()
                killed.append(worker.pid)

        at.student.fault = at.teacher.fault = kill
        summary = await synthesize(config(tmp_path, at, processes=2, concurrency=CONCURRENCY, stream=False))
    assert len(set(killed)) >= 2
    assert (summary.stopped_because, summary.owed) == ("", 0)
    check_same(tmp_path)
    assert several.written == one.written
    assert len(several.again) <= len(killed) * (CONCURRENCY + 2 * PROBES) + 2 * 2 * PROBES
    assert "was killed by signal 9" in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")


async def test_a_worker_that_is_killed_again_and_again_ends_the_run_with_one_line(tmp_path: Path) -> None:
    ask(tmp_path)
    async with servers(latency=0.01) as at:
        running = asyncio.create_task(synthesize(config(tmp_path, at, processes=2)))
        while not running.done():
            for worker in workers_of(os.getpid()):
                worker.kill()
            await asyncio.sleep(0.02)
        with pytest.raises(
            RunError, match=r"^process [01] was killed 3 times in a row \(signal 9; out of memory"
        ):
            await running
        assert (await synthesize(config(tmp_path, at))).kept == QUESTIONS


async def test_a_worker_that_cannot_go_on_ends_the_run_with_its_line(tmp_path: Path) -> None:
    ask(tmp_path, 4)
    async with servers() as at:

        def in_its_way(_: int) -> None:
            (tmp_path / "run" / "steps-1.sqlite").mkdir(exist_ok=True)

        at.student.fault = in_its_way
        with pytest.raises(RunError, match=r"^process 1 cannot go on: .*steps-1\.sqlite: cannot be written"):
            await synthesize(config(tmp_path, at, processes=2))
    assert kept(tmp_path / "run") == {}


async def test_a_worker_that_stands_still_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    ask(tmp_path)
    stop = asyncio.Event()
    async with servers(latency=0.01) as at:

        def suspend(_: int) -> None:
            if at.requests == 100:
                workers_of(os.getpid())[0].suspend()
                stop.set()

        at.student.fault = at.teacher.fault = suspend
        summary = await synthesize(config(tmp_path, at, processes=2), stop=stop)
    assert summary.stopped_because == "interrupted"
    check_books(summary, tmp_path / "run")


async def test_ctrl_c_in_a_terminal_is_the_parents(tmp_path: Path) -> None:
    """It goes to the whole group of processes; the run says how to go on, and nobody else says anything."""
    ask(tmp_path)
    async with servers(latency=0.02) as at:
        configure(tmp_path, at, processes=2)
        command = [str(Path(sys.executable).with_name("tessy")), "synthesize", "-c", "run.yaml"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        while at.requests < 200:  # noqa: ASYNC110 - it is asked by another process
            await asyncio.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")
        assert b"stopped early (interrupted)" in out
        assert (await synthesize(config(tmp_path, at, stream=False))).owed == 0
    assert len(kept(tmp_path / "run")) == QUESTIONS


async def test_a_directory_is_not_opened_beside_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessy.adapters.store.store.LEFT_AFTER", 0.3)
    one = await by_one(tmp_path)
    async with watched() as (at, several), forker() as process:
        configure(tmp_path, at, processes=2)
        killer = Killer(process, tmp_path / "run.yaml")
        pid = await killer.begin()
        ending = asyncio.create_task(killer.end())
        await asked(at, at.requests + len(one.written) // 3, ending)
        orphan = workers_of(pid)[0]
        orphan.suspend()
        os.kill(pid, signal.SIGKILL)
        assert await ending == -signal.SIGKILL
        with pytest.raises(RunError, match="another process is writing to this run directory"):
            await synthesize(config(tmp_path, at))
        orphan.resume()
        assert not psutil.wait_procs([orphan], timeout=10)[1]
        await synthesize(config(tmp_path, at, stream=False))
    check_same(tmp_path)
    assert several.written == one.written


def test_a_worker_whose_parent_ends_before_a_word_ends_without_one() -> None:
    command = [sys.executable, "-m", "tessy.programs.processes"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


# What does not go together


async def test_what_is_of_this_process_is_refused_by_field(tmp_path: Path) -> None:
    async def grader(job: Job, candidate: Response, part: str) -> Grade:
        return Grade(1.0)

    with pytest.raises(ConfigError, match=r"^processes: expected 1 with a grader of one's own, found 2$"):
        await synthesize(config(tmp_path, processes=2), grader=grader)
    local = fields(tmp_path, processes=2)
    local["teacher"]["base_url"] = "local"
    with pytest.raises(ConfigError, match=r"processes: expected 1 .*\(teacher\.base_url: local\), found 2$"):
        validate(local)
    with pytest.raises(ConfigError, match="processes: input should be greater than or equal to 1, found 0"):
        validate(fields(tmp_path, processes=0))
    assert RunConfig.model_validate(local | {"strategy": "student_only"}).processes == 2


def test_another_number_is_not_another_run(tmp_path: Path) -> None:
    one, four = (config(tmp_path, processes=number).model_dump(mode="json") for number in (1, 4))
    assert differences(one, four) == []
