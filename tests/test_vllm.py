"""The short form of `benchmarks/real_servers.py`: the embedded pair between two real vLLM servers, by the real CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tessy.adapters.export import write_export
from tessy.adapters.store import read_trajectories
from tessy.trajectory import Speaker, StopReason, Trajectory

pytestmark = pytest.mark.vllm

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "real_servers.py"


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
