"""What a worker and its parent tell one another: lines of JSON, one kind of fields for each kind of message.

To the worker: how to begin, a trajectory to write, one whose row is on disk. To the parent: that it is ready, how an
attempt ended, counts, why it must end. Does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from tessy.adapters.store import Failure, from_row, to_row, to_step
from tessy.programs.backlog import Task
from tessy.programs.config import RunConfig
from tessy.questions import Message, Question
from tessy.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Beginning:
    """Which worker it is, and of which run."""

    number: int
    config: RunConfig
    """Of its share of the run."""
    run_dir: Path

    def line(self) -> bytes:
        """As a message."""
        config = self.config.model_dump(mode="json")
        return line({"number": self.number, "config": config, "run_dir": str(self.run_dir)})

    @classmethod
    def of(cls, told: bytes) -> Beginning:
        """From a message."""
        fields = orjson.loads(told)
        return cls(fields["number"], RunConfig.model_validate(fields["config"]), Path(fields["run_dir"]))


@dataclass(frozen=True, slots=True)
class Order:
    """A trajectory to write."""

    task: Task
    attempt: int
    before: list[Step]
    """Steps that it has and the worker has not."""

    def line(self) -> bytes:
        """As a message. The question's metadata stay here: they may be anything, and nobody reads them."""
        order = {
            "messages": self.task.question.messages,
            "index": self.task.index,
            "attempt": self.attempt,
            "before": self.before,
        }
        return line({"write": order})

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Order:
        """From a message."""
        turns = tuple(Message(turn["role"], turn["content"]) for turn in fields["messages"])
        steps = [to_step(step) for step in fields["before"]]
        return cls(Task(Question(turns), fields["index"]), fields["attempt"], steps)


def line_of(outcome: Trajectory | Failure) -> bytes:
    """How an attempt ended, as a message."""
    if isinstance(outcome, Trajectory):
        return line({"kept": to_row(outcome)})
    return line(
        {
            "failed": {
                "id": outcome.trajectory,
                "attempt": outcome.attempt,
                "reason": outcome.reason,
                "message": outcome.message,
                "where": outcome.where,
            }
        }
    )


def kept(row: Mapping[str, Any], task: Task) -> Trajectory:
    """The trajectory of a message."""
    return replace(from_row(row), question=task.question)


def failed(fields: Mapping[str, Any], task: Task) -> Failure:
    """The failure of a message."""
    return Failure(
        task.id, task.question, *(fields[name] for name in ("attempt", "reason", "message", "where"))
    )


def line(fields: Mapping[str, Any]) -> bytes:
    """A message: one line."""
    return orjson.dumps(fields) + b"\n"
