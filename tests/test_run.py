"""Whole runs against real sockets: every question is accounted for, whatever the servers, the user or the files do."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml

from oracle import Pen, Written, algorithm_1
from runs import (
    STUDENT,
    TEACHER,
    Faults,
    Servers,
    check_books,
    config,
    failures,
    fields,
    kept,
    largest_file,
    question,
    servers,
    text,
    write_questions,
)
from tessy.adapters.fakes import (
    ByteTokenizer,
    FakeServer,
    Fault,
    PairTokenizer,
    ScriptedBoundary,
    ScriptedModel,
    Voice,
)
from tessy.adapters.store import read_rows
from tessy.core.formats import Thinking
from tessy.errors import DataError, RunError
from tessy.programs.config import RunConfig
from tessy.programs.directory import claim
from tessy.programs.progress import Progress
from tessy.programs.run import synthesize
from tessy.protocols import Completion
from tessy.questions import Question
from tessy.trajectory import Speaker, StopReason, Trajectory

PROBES, CHUNK_PROBES = 4, 2
"""Completions that the check before a run asks of each server, and where nothing is streamed."""
TESSY = str(Path(sys.executable).with_name("tessy"))


def ask(folder: Path, *numbers: int) -> None:
    write_questions(folder / "questions.jsonl", numbers)


def requests(**given: float) -> dict[str, float]:
    """Impatient with servers, so that tests are quick."""
    return {"retries": 0, "connect_seconds": 2, "read_seconds": 2} | given


# The oracle


async def by_the_oracle(run: RunConfig, asked: Question) -> Written:
    """What a plain reading of Algorithm 1 writes under the same configuration."""
    pens = {}
    for speaker, model in zip(Speaker, (STUDENT, TEACHER), strict=True):
        section = run.speaker(speaker)
        thinking = Thinking(
            section.reasoning_format(),
            model.tokenizer,
            foreign_ends=run.speaker(Speaker.STUDENT).reasoning_format().end,
        )

        async def write(ids: Sequence[int], count: int, model: ScriptedModel = model) -> Completion:
            return model.write(ids, count)

        prompt = thinking.prompt(asked.messages)
        chunk = run.chunk_of(speaker)
        pens[speaker] = Pen(write, ScriptedBoundary(), model.tokenizer, thinking, prompt, chunk)
    return await algorithm_1(
        pens,
        thinking_tokens=run.limits.thinking_tokens,
        context_tokens=run.limits.context_tokens,
        close=run.limits.on_thinking_limit == "close",
        opener=Speaker(run.opener),
        answerer=Speaker(run.answerer),
    )


def as_written(row: Trajectory) -> Written:
    spans = tuple((span.speaker, span.text, span.tokens) for span in row.spans)
    answer = row.answer.text if row.answer else None
    return Written(spans, answer, closed=row.stop is StopReason.CLOSED)


async def check_by_the_oracle(run: RunConfig, numbers: Sequence[int]) -> None:
    rows = kept(Path(run.run_dir))
    assert rows.keys() == {question(n).id for n in numbers}
    for n in numbers:
        assert as_written(rows[question(n).id]) == await by_the_oracle(run, question(n))


VARIANTS: dict[str, dict[str, Any]] = {
    "as is": {},
    "teacher opens and answers": {"opener": "teacher", "answerer": "teacher"},
    "closed at a limit": {"limits": {"thinking_tokens": 150, "on_thinking_limit": "close"}},
}


@pytest.mark.parametrize(
    ("concurrency", "variant"), [(1, "as is"), (64, "as is"), *((8, variant) for variant in VARIANTS)]
)
async def test_a_run_writes_what_algorithm_1_says(tmp_path: Path, concurrency: int, variant: str) -> None:
    ask(tmp_path, *range(64))
    async with servers(latency=0.001 if concurrency > 1 else 0) as at:
        run = config(tmp_path, at, concurrency=concurrency, **VARIANTS[variant])
        summary = await synthesize(run)
        assert at.student.max_in_flight + at.teacher.max_in_flight <= 2 * concurrency
        assert max(at.student.max_in_flight, at.teacher.max_in_flight) >= min(concurrency, 4)
    check_books(summary, tmp_path / "run")
    await check_by_the_oracle(run, range(64))
    stops = {row.stop for row in kept(tmp_path / "run").values()}
    assert (StopReason.CLOSED in stops) == ("closed" in variant)
    assert max(row.switches for row in kept(tmp_path / "run").values()) > 5


@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (3, 40), (20, 5)])
async def test_whatever_the_chunks_a_run_writes_what_algorithm_1_says(
    tmp_path: Path, student: int, teacher: int
) -> None:
    ask(tmp_path, *range(12))
    async with servers() as at:
        given = fields(tmp_path, at)
        given["student"]["chunk"], given["teacher"]["chunk"] = student, teacher
        run = RunConfig.model_validate(given)
        await synthesize(run)
    await check_by_the_oracle(run, range(12))


# Servers that fail


def lasting(fault: Fault, probes: int = PROBES) -> Faults:
    """A fault that begins when the check before the run is done, and stays."""
    return lambda number: fault if number > probes else None


def passing(fault: Fault) -> Faults:
    """A fault at every fifth request of the run."""
    return lambda number: fault if number > PROBES and number % 5 == 0 else None


def empty() -> Fault:
    """A completion of no tokens, as vLLM words it."""
    choice = {"text": "", "finish_reason": "stop", "logprobs": {"tokens": [], "token_logprobs": []}}
    return Fault(body=orjson.dumps({"choices": [choice], "usage": {"completion_tokens": 0}}))


FAULTS = {
    "reset": Fault(reset=True),
    "timeout": Fault(hang=True),
    "http_500": Fault.error(500, "EngineCore encountered an issue"),
    "rate_limited": Fault.error(429, "slow down", Retry_After="0.05"),
    "not_json": Fault(body=b"<html>\x1b[31mBad Gateway</html>"),
    "wrong_shape": Fault(body=orjson.dumps({"choices": [{"text": 3}]})),
    "http_400": Fault.error(400, "no such thing"),
    "empty": empty(),
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_fault_that_lasts_is_a_failure_with_its_reason(tmp_path: Path, kind: str) -> None:
    ask(tmp_path, *range(6))
    # They are replies to a chunk; what goes wrong in a stream is in test_stream.
    async with servers(teacher=lasting(FAULTS[kind], CHUNK_PROBES)) as at:
        patience = requests(read_seconds=0.3 if kind == "timeout" else 2)
        run = config(tmp_path, at, attempts=2, requests=patience, stream=False)
        summary = await synthesize(run)
    check_books(summary, tmp_path / "run", attempts=2)
    assert (summary.asked, summary.kept, summary.failed, summary.owed) == (6, 0, 6, 0)
    assert summary.failures == {kind: 6}
    rows = failures(tmp_path / "run")
    assert len(rows) == 12
    assert {row["reason"] for row in rows} == {kind}
    if kind != "empty":
        where = f"teacher model scripted at {at.teacher.base_url}"
        assert {row["where"] for row in rows} == {where}
        assert summary.commonest_error.startswith(where)
        assert summary.commonest_error.isprintable()
        assert re.search(r"question [0-9a-f]{24}\)$", summary.first_error)


@pytest.mark.parametrize("kind", sorted(FAULTS.keys() - {"http_400", "empty"}))
async def test_a_fault_that_passes_changes_nothing(tmp_path: Path, kind: str) -> None:
    ask(tmp_path, *range(6))
    fault = passing(FAULTS[kind])
    async with servers(student=fault, teacher=fault) as at:
        # The client retries once, the run the rest.
        patience = requests(retries=1, read_seconds=0.1 if kind == "timeout" else 2)
        run = config(tmp_path, at, attempts=20, requests=patience)
        summary = await synthesize(run)
    check_books(summary, tmp_path / "run", attempts=20)
    assert summary.kept == 6
    assert summary.retries > 0
    await check_by_the_oracle(run, range(6))


async def test_empty_completions_now_and_then_are_borne(tmp_path: Path) -> None:
    # Where a span has begun, one ends the turn; where it has not, it is asked for again.
    ask(tmp_path, *range(10))
    async with servers(teacher=passing(FAULTS["empty"])) as at:
        summary = await synthesize(config(tmp_path, at))
    check_books(summary, tmp_path / "run")
    assert (summary.kept, summary.owed) == (10, 0)


async def test_a_server_that_dies_in_the_run_refuses_and_is_named(tmp_path: Path) -> None:
    ask(tmp_path, *range(6))
    async with servers() as at:

        def die(number: int) -> Fault | None:
            if number > PROBES + 3:
                asyncio.get_running_loop().create_task(at.teacher.stop())
            return None

        at.teacher.fault = die
        summary = await synthesize(config(tmp_path, at, attempts=2, requests=requests()))
    check_books(summary, tmp_path / "run", attempts=2)
    assert (summary.kept, summary.failed) == (0, 6)
    assert summary.failures.keys() <= {"refused", "reset"}
    assert "refused" in summary.failures


async def test_a_dead_replica_is_done_without(tmp_path: Path) -> None:
    ask(tmp_path, *range(20))
    async with servers() as at, FakeServer(TEACHER) as replica:

        def die(number: int) -> Fault | None:
            if number > 20:
                asyncio.get_running_loop().create_task(replica.stop())
            return None

        replica.fault = die
        given = fields(tmp_path, at, requests=requests(retries=2), attempts=5)
        given["teacher"]["base_url"] = [at.teacher.base_url, replica.base_url]
        run = RunConfig.model_validate(given)
        summary = await synthesize(run)
        assert replica.requests > PROBES
    check_books(summary, tmp_path / "run", attempts=5)
    assert summary.kept == 20
    await check_by_the_oracle(run, range(20))


async def test_a_replica_that_is_dead_from_the_start_is_told_and_done_without(tmp_path: Path) -> None:
    ask(tmp_path, *range(5))
    dead = f"http://127.0.0.1:{free_port()}/v1"
    async with servers() as at:
        given = fields(tmp_path, at, requests=requests(retries=3))
        given["teacher"]["base_url"] = [dead, at.teacher.base_url]
        progress = Progress()
        summary = await synthesize(RunConfig.model_validate(given), progress=progress)
    assert summary.kept == 5
    (finding,) = [finding for finding in progress.findings if not finding.ok]
    assert dead in finding.subject
    assert "refused" in finding.message


async def test_a_trajectory_has_a_deadline(tmp_path: Path) -> None:
    ask(tmp_path, 0, 1)
    async with servers(latency=0.02) as at:
        patience = requests(trajectory_seconds=0.1)
        summary = await synthesize(config(tmp_path, at, attempts=1, requests=patience))
    check_books(summary, tmp_path / "run", attempts=1)
    assert summary.failures == {"deadline": 2}


async def test_an_outage_stops_the_run_and_leaves_the_rest_owed(tmp_path: Path) -> None:
    ask(tmp_path, *range(150))
    down = [True]
    async with servers() as at:
        at.teacher.fault = lambda number: FAULTS["http_500"] if number > PROBES and down[0] else None
        patience = requests(outage_seconds=0.3)
        run = config(tmp_path, at, concurrency=15, requests=patience)
        summary = await synthesize(run)
        check_books(summary, tmp_path / "run")
        assert "nearly everything has failed" in summary.stopped_because
        assert summary.owed > 50
        assert len(failures(tmp_path / "run")) < 100
        assert "HTTP 500: EngineCore encountered an issue" in summary.commonest_error
        assert at.teacher.base_url in summary.commonest_error
        down[0] = False
        summary = await synthesize(run)
    check_books(summary, tmp_path / "run")
    assert summary.kept == 150


# Failures and attempts


async def test_failed_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    ask(tmp_path, *range(4))
    async with servers(teacher=lambda number: FAULTS["http_500"] if number % 7 > PROBES else None) as at:
        for attempts in (1, 1, 2, 3, 3):
            at.teacher.fault = lasting(FAULTS["http_500"])
            at.teacher.requests = 0
            summary = await synthesize(config(tmp_path, at, attempts=attempts, requests=requests()))
            check_books(summary, tmp_path / "run", attempts=attempts)
            assert (summary.failed, summary.owed) == (4, 0)
            assert len(failures(tmp_path / "run")) == 4 * attempts
        at.teacher.fault = lambda number: None
        summary = await synthesize(config(tmp_path, at, attempts=4))
    assert summary.kept == 4
    assert {row.attempt for row in kept(tmp_path / "run").values()} == {4}


async def test_another_attempt_goes_on_from_the_steps_of_the_one_before(tmp_path: Path) -> None:
    ask(tmp_path, *range(5))
    async with servers() as at:
        await synthesize(config(tmp_path, at, run_dir=str(tmp_path / "undisturbed"), stream=False))
        undisturbed = at.generated
    async with servers(teacher=passing(FAULTS["http_500"])) as at:
        summary = await synthesize(config(tmp_path, at, attempts=50, requests=requests(), stream=False))
        assert at.generated == undisturbed
    assert summary.kept == 5
    assert len(failures(tmp_path / "run")) >= 5
    assert texts(tmp_path / "run") == texts(tmp_path / "undisturbed")


def texts(run_dir: Path) -> Mapping[str, Written]:
    return {name: as_written(row) for name, row in kept(run_dir).items()}


async def test_a_text_that_went_wrong_is_begun_anew(tmp_path: Path) -> None:
    ask(tmp_path, *range(3))
    async with servers() as at:
        run = config(tmp_path, at, attempts=2, limits={"thinking_tokens": 40})
        summary = await synthesize(run)
    check_books(summary, tmp_path / "run", attempts=2)
    assert summary.failures == {"thinking_limit": 3}
    assert {row["message"] for row in failures(tmp_path / "run")} == {""}


# Before the run


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Ended(NamedTuple):
    """How a `tessy` process ended."""

    code: int
    out: str
    err: str


@asynccontextmanager
async def tessy(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        TESSY, *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def command(folder: Path, *arguments: str) -> Ended:
    async with tessy(folder, *arguments) as process:
        return await ended(process)


async def ended(process: asyncio.subprocess.Process) -> Ended:
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def write_config(folder: Path, at: Servers, **given: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(fields(folder, at, **given)), encoding="utf-8")
    return path


async def test_a_wrong_model_name_is_one_line_and_nothing_is_attempted(tmp_path: Path) -> None:
    ask(tmp_path, *range(50))
    async with servers() as at:
        path = write_config(tmp_path, at)
        result = await command(tmp_path, "synthesize", "-c", str(path), "teacher.model=Qwen/Nope")
        assert result.code == 2
        (line,) = result.err.splitlines()
        assert "teacher" in line
        assert at.teacher.base_url in line
        assert "does not serve 'Qwen/Nope'; it serves scripted" in line
        assert at.requests <= 2 * PROBES
    assert failures(tmp_path / "run") == []
    assert kept(tmp_path / "run") == {}


async def test_a_dead_server_is_one_line_and_nothing_is_attempted(tmp_path: Path) -> None:
    ask(tmp_path, *range(50))
    async with servers() as at:
        path = write_config(tmp_path, at)
        dead = f"http://127.0.0.1:{free_port()}/v1"
        result = await command(tmp_path, "synthesize", "-c", str(path), f"student.base_url={dead}")
        assert result.code == 2
        (line,) = result.err.splitlines()
        assert dead in line
        assert "connection refused" in line
        assert at.requests <= PROBES
        # The directory is not spoilt: the right configuration goes on in it.
        assert (await command(tmp_path, "synthesize", "-c", str(path), "--limit", "2")).code == 0
    assert failures(tmp_path / "run") == []
    assert len(kept(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": ""}', "expected a user turn with text in it"),
        ('{"text": "Why?"}', "expected one of the fields messages, dialogs"),
        ('{"question": "Why?"', "is no JSON"),
        ('["Why?"]', "expected an object with a question"),
        ('{"messages": [{"role": "user"}]}', "messages[0]: expected role and content"),
    ],
)
async def test_a_bad_question_names_file_and_line_and_nothing_is_sent(
    tmp_path: Path, line: str, said: str
) -> None:
    ask(tmp_path, *range(3))
    path = tmp_path / "questions.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "\n" + line + "\n", encoding="utf-8")
    async with servers() as at:
        with pytest.raises(DataError) as told:
            await synthesize(config(tmp_path, at))
        assert at.requests == 0
    assert str(told.value).startswith(f"{path}: line 5: ")
    assert said in str(told.value)


async def test_a_run_directory_of_another_configuration_is_refused_by_field(tmp_path: Path) -> None:
    ask(tmp_path, *range(3))
    await synthesize(config(tmp_path))
    before = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
    changed = fields(tmp_path, limits={"thinking_tokens": 7000}, seed=3)
    changed["student"]["chunk"] = 6
    with pytest.raises(RunError) as told:
        await synthesize(RunConfig.model_validate(changed))
    for name in ("student.chunk: 15 in the run directory, 6 now", "limits.thinking_tokens", "seed: None"):
        assert name in str(told.value)
    assert "sampling" not in str(told.value)
    assert (tmp_path / "run" / "trajectories.jsonl").read_bytes() == before
    # How far and how patiently it goes is free.
    summary = await synthesize(config(tmp_path, concurrency=2, attempts=9, requests=requests()))
    assert summary.kept == 3


async def test_a_full_disk_ends_the_run_with_an_error_and_the_next_one_goes_on(tmp_path: Path) -> None:
    ask(tmp_path, *range(30))
    async with servers() as at:
        run = config(tmp_path, at)
        await synthesize(run.model_copy(update={"limit": 2}))
        before = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
        with largest_file(len(before) + 15_000), pytest.raises(RunError, match="cannot be written") as told:
            await synthesize(run)
        assert "\n" not in str(told.value)
        after = (tmp_path / "run" / "trajectories.jsonl").read_bytes()
        assert after.startswith(before)
        assert after.endswith(b"\n")
        summary = await synthesize(run)
    check_books(summary, tmp_path / "run")
    assert summary.kept == 30


def test_the_configuration_of_a_run_is_never_half_written(tmp_path: Path) -> None:
    run = config(tmp_path)
    (tmp_path / "run").mkdir()
    claim(run)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with largest_file(100), pytest.raises(RunError, match=r"config\.yaml.*cannot be written"):
        claim(run.model_copy(update={"concurrency": 3}))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe: 3", b"a: b: c\n- d"])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.yaml: cannot be read") as told:
        claim(config(tmp_path))
    assert "\n" not in str(told.value)


# Going on, and extending


async def test_a_larger_limit_and_more_trajectories_extend_a_run(tmp_path: Path) -> None:
    ask(tmp_path, *range(10))
    path, size = tmp_path / "run" / "trajectories.jsonl", 0
    async with servers() as at:
        for limit, trajectories, count in ((2, 1, 2), (5, 1, 5), (5, 3, 15), (None, 3, 30), (None, 1, 10)):
            before = path.read_bytes() if path.exists() else b""
            run = config(tmp_path, at, limit=limit, trajectories=trajectories)
            summary = await synthesize(run)
            assert (summary.asked, summary.kept, summary.owed) == (count, count, 0)
            assert path.read_bytes().startswith(before)
            size = max(size, count)
            assert len(kept(tmp_path / "run")) == size
    found = kept(tmp_path / "run")
    assert found.keys() == {f"{question(n).id}{suffix}" for n in range(10) for suffix in ("", "-1", "-2")}


async def test_order_and_duplicates_do_not_matter(tmp_path: Path) -> None:
    ask(tmp_path, 3, 1, 3, 2, 1, 3)
    async with servers() as at:
        summary = await synthesize(config(tmp_path, at))
        check_books(summary, tmp_path / "run")
        assert (summary.asked, summary.duplicates) == (3, 3)
        generated = at.generated
        ask(tmp_path, 2, 2, 3, 1)
        summary = await synthesize(config(tmp_path, at))
        assert (summary.asked, summary.kept, summary.duplicates) == (3, 3, 1)
        assert at.generated == generated
        ask(tmp_path, 9, 1, 2, 3)
        summary = await synthesize(config(tmp_path, at))
    assert summary.kept == 4
    assert {row.question.text for row in kept(tmp_path / "run").values()} == {text(n) for n in (1, 2, 3, 9)}


async def test_a_stop_at_any_moment_keeps_the_books_and_loses_nothing(tmp_path: Path) -> None:
    ask(tmp_path, *range(40))
    async with servers() as at:
        await synthesize(config(tmp_path, at, run_dir=str(tmp_path / "undisturbed"), stream=False))
        whole = at.requests
    async with servers(latency=0.002) as at:
        stops = 0
        while True:
            stop = asyncio.Event()
            due = at.requests + 2 * PROBES + whole // 12

            def press(number: int, stop: asyncio.Event = stop, due: int = due) -> None:
                if at.requests >= due:
                    stop.set()

            at.student.fault = at.teacher.fault = press
            summary = await synthesize(config(tmp_path, at, concurrency=8, stream=False), stop=stop)
            check_books(summary, tmp_path / "run")
            assert summary.asked == 40
            if not summary.stopped_because:
                break
            stops += 1
            assert summary.stopped_because == "interrupted"
        assert 5 < stops < 30
        # What was under way at a stop is asked for again, nothing else.
        assert at.requests <= whole + stops * (8 + 2 * PROBES) + 2 * PROBES
    assert texts(tmp_path / "run") == texts(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_says_how_to_go_on_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    ask(tmp_path, *range(30))
    async with servers(latency=0.02) as at:
        path = write_config(tmp_path, at, concurrency=10)
        async with tessy(tmp_path, "synthesize", "-c", str(path)) as process:
            while at.requests < 200:  # noqa: ASYNC110 - it is asked by another process
                await asyncio.sleep(0.01)
            process.send_signal(number)
            first = await ended(process)
        assert first.code == 130
        assert first.err == ""
        assert "stopped early (interrupted)" in first.out
        assert f"Run the same command again to go on with {tmp_path / 'run'}" in " ".join(first.out.split())
        found = re.search(r"asked 30 = kept (\d+) \+ failed 0 \+ owed (\d+)", first.out)
        assert found
        assert int(found[1]) == len(kept(tmp_path / "run"))
        assert int(found[2]) == 30 - int(found[1]) > 0
        at.student.latency = at.teacher.latency = 0.0
        second = await command(tmp_path, "synthesize", "-c", str(path))
        assert second.code == 0
        assert "asked 30 = kept 30 + failed 0 + owed 0" in second.out
        generated = at.generated
        third = await command(tmp_path, "synthesize", "-c", str(path))
        assert (third.code, at.generated) == (0, generated)
    await check_by_the_oracle(config(tmp_path, at), range(30))


async def test_a_run_that_owes_something_exits_with_1(tmp_path: Path) -> None:
    ask(tmp_path, *range(100))
    async with servers(teacher=lasting(FAULTS["http_500"])) as at:
        path = write_config(tmp_path, at, requests=requests(outage_seconds=0.1))
        result = await command(tmp_path, "synthesize", "-c", str(path))
    assert result.code == 1
    assert "commonest" in result.out or "first error" in result.out
    assert "nearly everything has failed for 0.1 s" in result.out


async def test_a_run_stopped_before_it_begins_is_no_success(tmp_path: Path) -> None:
    ask(tmp_path, *range(3))
    stop = asyncio.Event()
    stop.set()
    async with servers() as at:
        summary = await synthesize(config(tmp_path, at), stop=stop)
        assert at.requests == 0
    assert summary.stopped_because == "interrupted"


# What is left behind


async def test_rows_say_how_they_were_made_and_a_run_leaves_its_summary(tmp_path: Path) -> None:
    ask(tmp_path, *range(3))
    async with servers() as at:
        summary = await synthesize(config(tmp_path, at, seed=7, stream=False))
    for row in read_rows(tmp_path / "run"):
        made_with = row["made_with"]
        assert made_with["seed"] == 7
        assert made_with["student"]["model"] == made_with["teacher"]["model"] == "scripted"
        assert made_with["teacher"]["sampling"]["temperature"] == 0
        assert row["metadata"]["gold"] == 2 * int(row["messages"][-1]["content"].split()[2])
    written = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert written["asked"] == summary.asked == 3
    assert written["totals"]["tokens"] == dict(summary.totals.tokens)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert RunConfig.model_validate(stored) == config(tmp_path, at, seed=7, stream=False)
    spans = [row.spans for row in kept(tmp_path / "run").values()]
    drafts = sum(span.drafts for each in spans for span in each)
    assert drafts + 3 == sum(summary.requests.values())


SHORTEST = """
import asyncio, json, re, sys
from pathlib import Path
from tessy.programs.config import load
from tessy.programs.run import synthesize

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

figures = []
for limit in (500, 2000):
    summary = asyncio.run(synthesize(load(sys.argv[1], [f"limit={limit}"])))
    figures.append([summary.kept, held()])
print(json.dumps([figures, "torch" in sys.modules, "transformers" in sys.modules]))
"""


async def test_memory_does_not_grow_with_the_questions_and_torch_is_not_loaded(tmp_path: Path) -> None:
    ask(tmp_path, *range(2000))
    one = ScriptedModel(ByteTokenizer(), Voice.STUDENT, clauses=(0, 0))
    two = ScriptedModel(PairTokenizer(), Voice.TEACHER, clauses=(0, 0), salt=1)
    async with FakeServer(one) as student, FakeServer(two) as teacher:
        given = fields(tmp_path, Servers(student, teacher), concurrency=32)
        given["student"]["chunk"] = 64
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(given), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SHORTEST, str(path), stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
    ((few, small), (many, large)), torch, transformers = json.loads(out)
    assert (few, many) == (500, 2000)
    assert large < small + 10
    assert large < 150
    assert not torch
    assert not transformers
