"""Small runs for tests: questions, configurations on scripted models, and what a run directory must always satisfy."""

from __future__ import annotations

import json
import resource
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tessy.adapters.fakes import ByteTokenizer, FakeServer, Fault, PairTokenizer, ScriptedModel, Voice
from tessy.adapters.store import read_rows, read_trajectories
from tessy.programs.config import FAKE, RunConfig
from tessy.programs.progress import Summary
from tessy.questions import Message, Question
from tessy.trajectory import Trajectory

STUDENT = ScriptedModel(ByteTokenizer(), Voice.STUDENT)
TEACHER = ScriptedModel(PairTokenizer(), Voice.TEACHER, salt=1)


IMPATIENT: dict[str, Any] = {
    "connect_timeout": 2.0,
    "read_timeout": 2.0,
    "retries": 3,
    "backoff": 0.01,
    "backoff_cap": 0.05,
    "cool_down": 0.1,
}
"""Of `ServerOptions`, for servers that misbehave on purpose."""


class Servers(NamedTuple):
    """Both scripted models, each behind a socket."""

    student: FakeServer
    teacher: FakeServer

    @property
    def generated(self) -> int:
        return self.student.generated + self.teacher.generated

    @property
    def requests(self) -> int:
        return self.student.requests + self.teacher.requests


Faults = Callable[[int], Fault | None]


@asynccontextmanager
async def servers(
    *, student: Faults = lambda number: None, teacher: Faults = lambda number: None, latency: float = 0.0
) -> AsyncIterator[Servers]:
    async with (
        FakeServer(STUDENT, fault=student, latency=latency) as one,
        FakeServer(TEACHER, fault=teacher, latency=latency) as two,
    ):
        yield Servers(one, two)


def text(n: int) -> str:
    return f"What is {n} + {n}?"


def write_questions(path: Path, numbers: Iterable[int]) -> None:
    lines = [json.dumps({"question": text(n), "gold": 2 * n}) + "\n" for n in numbers]
    path.write_text("".join(lines), encoding="utf-8")


def fields(folder: Path, at: Servers | None = None, **given: Any) -> dict[str, Any]:
    """A configuration as data; `at`: the servers, else the scripted models run in this process."""
    urls = [server.base_url for server in at] if at else [FAKE, FAKE]
    speaker = {"model": "scripted", "predictor": "fake"}
    base: dict[str, Any] = {
        "questions": str(folder / "questions.jsonl"),
        "run_dir": str(folder / "run"),
        "student": speaker | {"base_url": urls[0], "tokenizer": "fake/bytes", "format": "qwen3", "chunk": 15},
        "teacher": speaker
        | {"base_url": urls[1], "tokenizer": "fake/pairs", "format": "deepseek_r1", "chunk": 12},
        "sampling": {"temperature": 0},
    }
    return base | given


def config(folder: Path, at: Servers | None = None, **given: Any) -> RunConfig:
    return RunConfig.model_validate(fields(folder, at, **given))


def question(n: int) -> Question:
    return Question((Message("user", text(n)),), {"gold": 2 * n})


def kept(run_dir: Path) -> dict[str, Trajectory]:
    """The rows by id, without the time they took; no id is there twice."""
    rows = [replace(row, seconds=0.0) for row in read_trajectories(run_dir)]
    found = {row.id: row for row in rows}
    assert len(found) == len(rows), "a row was written twice"
    return found


def failures(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "failures.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    return [json.loads(line) for line in lines]


def check_books(summary: Summary, run_dir: Path, attempts: int = 3) -> None:
    """asked = kept + failed + owed, and the files say the same."""
    assert summary.asked == summary.kept + summary.failed + summary.owed
    rows = list(read_rows(run_dir))
    assert (run_dir / "trajectories.jsonl").read_bytes().count(b"\n") == len(rows) == len(kept(run_dir))
    tried: dict[str, list[int]] = {}
    for row in failures(run_dir):
        assert row["reason"]
        tried.setdefault(row["id"], []).append(row["attempt"])
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in tried.values()), tried
    given_up = {name for name, numbers in tried.items() if len(numbers) >= attempts}
    assert not given_up & kept(run_dir).keys()
    assert summary.kept == len(rows)
    assert summary.failed == len(given_up)
    assert sum(summary.failures.values()) == summary.failed


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: EFBIG, as ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
