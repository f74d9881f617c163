"""The short form of `benchmarks/real_servers.py`: the embedded pair between two real vLLM servers, by the real CLI.

And every strategy between two such servers, with a few questions each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessy import embedded
from tessy.adapters.export import write_export
from tessy.adapters.store import read_trajectories
from tessy.core.strategies import Strategy
from tessy.core.strategies.ways import mixed
from tessy.programs.check import check
from tessy.programs.config import RunConfig
from tessy.programs.demo import demo_config, write_questions
from tessy.programs.run import synthesize
from tessy.programs.speakers import participants
from tessy.trajectory import Speaker, StopReason, Trajectory
from vllm_servers import metrics

pytestmark = pytest.mark.vllm

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "real_servers.py"
SERVERS = BENCHMARK.with_name("vllm_servers.py")
QUESTIONS = 6
KILLED_AFTER = 250
"""Tokens; all responses have some 1,000 and more."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures that the benchmark writes, for its one run."""
    runs = tmp_path_factory.mktemp("runs")
    subprocess.run([sys.executable, str(BENCHMARK), "--quick", "--runs", str(runs)], check=True)
    (only,) = json.loads((runs / "figures.json").read_text())
    assert isinstance(only, dict)
    return only


@pytest.fixture(scope="module")
def rows(outcome: dict[str, Any]) -> list[Trajectory]:
    return list(read_trajectories(outcome["run_dir"]))


def test_every_question_is_accounted_for(outcome: dict[str, Any], rows: list[Trajectory]) -> None:
    summary = outcome["summary"]
    assert summary["asked"] == 12
    assert summary["kept"] + summary["failed"] == 12
    assert summary["owed"] == 0
    assert summary["kept"] == len(rows) == len({row.id for row in rows})
    # What failed failed by what was written, not by a request.
    assert set(summary["failures"]) <= set(StopReason)


def test_both_servers_wrote_what_is_kept(rows: list[Trajectory]) -> None:
    assert rows
    for row in rows:
        assert row.stop.kept
        assert all(one.speaker is not other.speaker for one, other in pairwise(row.spans))
        assert all(span.tokens <= span.drafted for span in row.spans)
        assert all(span.text.strip() for span in row.spans[:-1])  # the last may only end the thinking
        assert row.answer is not None
        assert row.answer.speaker is Speaker.STUDENT
        assert row.answer.text.strip()
        assert not any(marker in row.thinking for marker in ("<think>", "</think>", "<|", "assistantfinal"))
    assert all(sum(row.tokens(speaker) for row in rows) > 0 for speaker in Speaker)


def test_every_request_was_counted_by_its_server(outcome: dict[str, Any]) -> None:
    drafted = outcome["summary"]["totals"]["drafted"]
    for speaker, server in outcome["servers"].items():
        assert server["generated_tokens"] >= drafted[speaker] > 0


def test_the_prefix_caches_hit(outcome: dict[str, Any]) -> None:
    for server in outcome["servers"].values():
        assert server["prefix_hits"] > server["prefix_queries"] / 4


def test_the_rows_are_training_data(rows: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    assert write_export(rows, path, "dialogs") == len(rows)
    for line in path.read_text().splitlines():
        question, response = (turn["content"] for turn in json.loads(line)["dialogs"])
        assert question
        assert response.startswith("<think>")
        assert response.count("</think>") == 1


@contextmanager
def serving(*arguments: str) -> Iterator[dict[str, str]]:
    """Servers until the block ends: speaker to base URL."""
    command = [sys.executable, str(SERVERS), "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("{")), None)
            assert line is not None, "the servers did not start: see their logs in .vllm"
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """Both of the embedded pair behind vLLM."""
    with serving(*(f"{speaker}={embedded.path(speaker.value)}" for speaker in Speaker)) as urls:
        yield urls


def served(folder: Path, urls: dict[str, str], strategy: Strategy) -> RunConfig:
    """Some hard questions for a strategy."""
    write_questions(folder, QUESTIONS)
    local = demo_config(folder, strategy=strategy, seed=1, candidates=2)
    speakers = {
        speaker.value: local.speaker(speaker).model_dump()
        | {"model": speaker.value, "base_url": urls[speaker], "tokenizer": str(embedded.path(speaker.value))}
        for speaker in Speaker
    }
    return RunConfig.model_validate(local.model_dump() | speakers)


def killed(run: RunConfig, urls: dict[str, str], folder: Path) -> None:
    """Begin the run in a process of its own, and kill it when some of its tokens are written."""

    def written() -> int:
        return sum(metrics(url).generated_tokens for url in urls.values())

    path, before = folder / "run.yaml", written()
    path.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forker:
        assert forker.stdin
        assert forker.stdout
        forker.stdin.write(f"{path}\n")
        forker.stdin.flush()
        pid, deadline = int(forker.stdout.readline()), time.monotonic() + 120
        while written() < before + KILLED_AFTER:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert int(forker.stdout.readline()) == -signal.SIGKILL, "the run was over before its kill"
        forker.stdin.close()


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_is_killed_goes_on_and_exports(
    tmp_path: Path, urls: dict[str, str], strategy: Strategy
) -> None:
    run = served(tmp_path, urls, strategy)
    killed(run, urls, tmp_path)
    file = Path(run.run_dir) / "trajectories.jsonl"
    before = file.read_bytes() if file.exists() else b""
    before = before[: before.rfind(b"\n") + 1]  # a line that breaks off is owed again
    if strategy is Strategy.TESSY:
        with closing(sqlite3.connect(Path(run.run_dir) / "state.sqlite")) as journal:
            assert journal.execute("SELECT COUNT(*) FROM steps").fetchone()[0] > 0
    summary = asyncio.run(synthesize(run))
    assert summary.asked == QUESTIONS == summary.kept + summary.failed
    assert set(summary.failures) <= set(StopReason)
    assert file.read_bytes().startswith(before)
    rows = list(read_trajectories(run.run_dir))
    assert rows
    assert len(rows) == len({row.id for row in rows}) == summary.kept
    for row in rows:
        assert row.answer is not None
        if strategy is not Strategy.TESSY:
            expected = strategy.writers or (mixed(row.question),) * 2
            assert ({span.speaker for span in row.spans}, row.answer.speaker) == ({expected[0]}, expected[1])
        assert bool(row.asides) == (strategy in (Strategy.TEACHER_SCORE, Strategy.TEACHER_REFERENCE))
    assert write_export(rows, tmp_path / "train.jsonl", "dialogs") == len(rows)


async def large_blocks(run: RunConfig) -> list[str]:
    """Whose servers the check says to have cache blocks that are too large."""
    async with participants(run) as speakers:
        found = await check(run, speakers)
    assert not any(finding.fatal for finding in found)
    hints = [finding for finding in found if "whole blocks" in finding.message]
    assert all("whole blocks of 128 tokens" in hint.message and not hint.ok for hint in hints)
    return [hint.subject.split()[0] for hint in hints]


def test_the_check_tells_of_the_usual_cache_blocks(tmp_path: Path, urls: dict[str, str]) -> None:
    """128 tokens on a CPU; the others have 32."""
    assert asyncio.run(large_blocks(served(tmp_path, urls, Strategy.TESSY))) == []
    with serving("--usual", f"student={embedded.path('student')}") as usual:
        assert asyncio.run(large_blocks(served(tmp_path, urls | usual, Strategy.TESSY))) == ["student"]
