"""A kept trajectory as a row: its stored form, and reading the rows of a run directory.

The contract with everything that comes after a run; a reader need not wait for the run's end. Refuses to know how rows
are written and remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from tessy.errors import DataError
from tessy.questions import Message, Question
from tessy.trajectory import Aside, Choice, Span, Speaker, StopReason, Trajectory

SCHEMA = 1
"""Version of the rows of `trajectories.jsonl`."""

KEPT = "trajectories.jsonl"
FAILED = "failures.jsonl"


def read_rows(run_dir: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of the kept trajectories, as they were written; a run may be going on meanwhile.

    Raises:
        DataError: there is no run, or a line is broken.
    """
    path = Path(run_dir) / KEPT
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # being written
                try:
                    row = orjson.loads(line)
                    if row["schema"] != SCHEMA:
                        raise DataError(f"{path}: line {number}: schema {row['schema']!r}, expected {SCHEMA}")
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path}: line {number}: is no row of a run: {error}") from error
                yield row
    except OSError as error:
        raise DataError(f"{run_dir}: no run is kept here: {path.name}: {error.strerror}") from error


def read_trajectories(run_dir: str | Path) -> Iterator[Trajectory]:
    """The kept trajectories of a run directory, in the order they were finished.

    Raises:
        DataError: there is no run, or a line is broken.
    """
    for row in read_rows(run_dir):
        try:
            yield from_row(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{run_dir}: row {row.get('id')!r}: is no trajectory: {error}") from error


def to_row(trajectory: Trajectory) -> dict[str, Any]:
    """The stored form; what only some strategies make is there only where it was made."""
    question = trajectory.question
    rest = {"system": trajectory.system, "asides": trajectory.asides, "choice": trajectory.choice}
    return {
        "id": trajectory.id,
        "schema": SCHEMA,
        "question_id": question.id,
        "index": trajectory.index,
        "attempt": trajectory.attempt,
        "stop": trajectory.stop,
        "seconds": round(trajectory.seconds, 3),
        "messages": question.messages,
        "metadata": question.metadata,
        "spans": trajectory.spans,
        "answer": trajectory.answer,
    } | {name: value for name, value in rest.items() if value}


def from_row(row: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a stored row.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    return Trajectory(
        Question(messages, row["metadata"]),
        row["index"],
        tuple(to_span(span) for span in row["spans"]),
        None if row["answer"] is None else to_span(row["answer"]),
        StopReason(row["stop"]),
        row["seconds"],
        row["attempt"],
        row.get("system", ""),
        tuple(_to_aside(aside) for aside in row.get("asides", ())),
        _to_choice(row["choice"]) if "choice" in row else None,
    )


def to_span(fields: Mapping[str, Any]) -> Span:
    """A span from its stored form."""
    return Span(
        Speaker(fields["speaker"]), *(fields[name] for name in ("text", "tokens", "drafts", "drafted"))
    )


def _to_aside(fields: Mapping[str, Any]) -> Aside:
    return Aside(
        fields["part"],
        Speaker(fields["speaker"]),
        StopReason(fields["stop"]),
        *(fields[name] for name in ("tokens", "drafts", "drafted", "text")),
    )


def _to_choice(fields: Mapping[str, Any]) -> Choice:
    taken, scores = fields["taken"], tuple(fields["scores"])
    if not 0 <= taken < len(scores):
        raise ValueError(f"candidate {taken} of {len(scores)} is taken")
    return Choice(taken, scores, fields["failed"], fields["unparsable"])
