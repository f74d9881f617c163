"""Kept trajectories as training data, in the forms that trainers read.

Owns the published form (`dialogs`), `messages` and ShareGPT. Reads stored rows only, and knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from tessy.errors import ConfigError, DataError
from tessy.trajectory import Speaker, Trajectory

Row = dict[str, Any]


def response_text(trajectory: Trajectory) -> str:
    """The assistant's turn: the thinking in `<think>` tags, then the answer (the published form)."""
    answer = trajectory.answer.text.strip() if trajectory.answer else ""
    return f"<think>\n{trajectory.thinking.strip()}\n</think>\n\n{answer}"


def _turns(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [
        *((message.role, message.content) for message in trajectory.question.messages),
        ("assistant", response_text(trajectory)),
    ]


def _messages(trajectory: Trajectory) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in _turns(trajectory)]}


def _dialogs(trajectory: Trajectory) -> Row:
    return {"dialogs": _messages(trajectory)["messages"]}


def _sharegpt(trajectory: Trajectory) -> Row:
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names.get(role, role), "value": content} for role, content in _turns(trajectory)]
    return {"conversations": turns}


EXPORT_FORMATS: Mapping[str, Callable[[Trajectory], Row]] = {
    "dialogs": _dialogs,
    "messages": _messages,
    "sharegpt": _sharegpt,
}


def to_training_row(trajectory: Trajectory, format: str = "dialogs") -> Row:
    """One row of training data: the conversation, and the counts of the published data sets."""
    return {
        "id": trajectory.id,
        **EXPORT_FORMATS[format](trajectory),
        "n_tokens_total": trajectory.tokens(),
        "n_tokens_teacher": trajectory.tokens(Speaker.TEACHER),
        "n_tokens_student": trajectory.tokens(Speaker.STUDENT),
        "stop": trajectory.stop.value,
        # As text: rows whose metadata differ in shape would otherwise not load as one table.
        "metadata": orjson.dumps(trajectory.question.metadata, default=str).decode(),
    }


def write_export(trajectories: Iterable[Trajectory], to: str | Path, format: str = "dialogs") -> int:
    """Write training data as JSONL, all of it or nothing; returns the number of rows.

    Raises:
        ConfigError: there is no such format.
        DataError: a stored row is broken, or the file cannot be written.
    """
    if format not in EXPORT_FORMATS:
        raise ConfigError(f"format {format!r}: expected one of {', '.join(EXPORT_FORMATS)}")
    path = Path(to)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            count = 0
            for line in _lines(trajectories, format):
                file.write(line)
                count += 1
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return count


def _lines(trajectories: Iterable[Trajectory], format: str) -> Iterator[bytes]:
    for trajectory in trajectories:
        yield orjson.dumps(to_training_row(trajectory, format)) + b"\n"
