"""What is analysed: run directories and published or exported data sets, as one stream of responses.

Owns how sources are named. Rows come one at a time. Refuses to know what is measured in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tessy.adapters.marks import read_verdicts
from tessy.adapters.sources import assistant_turn, split_response, to_question
from tessy.adapters.sources.files import local_rows
from tessy.adapters.store import FAILED, KEPT, from_row, read_rows
from tessy.core.answers import is_right
from tessy.errors import DataError
from tessy.questions import Message, Question
from tessy.trajectory import Span, Speaker, StopReason, Trajectory

LONGEST_NAME = 32


@dataclass(frozen=True, slots=True)
class Response:
    """One response, wherever it comes from."""

    id: str
    question: Question
    thinking: str
    answer: str
    trajectory: Trajectory | None = None
    """Who wrote what; None for a published row, which does not tell."""
    tokens: Mapping[Speaker, int] = field(default_factory=dict)
    """Kept tokens of each speaker in its own vocabulary, the answer included; {} where it is not told."""
    stop: str | None = None
    right: bool | None = None
    """Whether the answer is right; None where that cannot be told."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What it answers as training data: the question, under a system prompt if it has one."""
        return self.trajectory.messages if self.trajectory else self.question.messages

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans of the thinking; () where they are not told."""
        return self.trajectory.spans if self.trajectory else ()

    @property
    def order(self) -> tuple[str, str]:
        """Arbitrary, but the same in every source: to take the same few questions of each."""
        return self.question.id, self.id


@dataclass(frozen=True, slots=True)
class Source:
    """Something to analyse."""

    name: str
    path: Path
    is_run: bool

    def responses(self) -> Iterator[Response]:
        """Its responses, in the order of the file; a run may be going on meanwhile.

        Raises:
            DataError: a row is not what it should be; the message names the file and the line.
        """
        return _kept(self.path) if self.is_run else _published(self.path)

    def failed_attempts(self) -> Counter[str]:
        """How often an attempt at a trajectory failed, by reason.

        Raises:
            DataError: a line is no failure.
        """
        reasons: Counter[str] = Counter()
        path = self.path / FAILED
        if not self.is_run or not path.exists():
            return reasons
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):  # else it is being written
                    reasons[_reason(line, f"{path}: line {number}")] += 1
        return reasons


def open_sources(given: Sequence[str | Path]) -> tuple[Source, ...]:
    """The sources behind paths and `name=path`, each with a name of its own.

    Raises:
        DataError: there is nothing at a path, or two are given the same name.
    """
    named = [_named(source) for source in given]
    others = [path for name, path in named if not name]
    short = iter(_distinct([_strategy(path) or path.stem for path in others], others))
    names = [(name or next(short))[:LONGEST_NAME] for name, _ in named]
    paths = [path for _, path in named]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{twice}: two sources have this name; give others: name=path")
    return tuple(Source(name, path, _is_run(path)) for name, path in zip(names, paths, strict=True))


def _named(given: str | Path) -> tuple[str, Path]:
    name, equals, path = str(given).partition("=")
    if equals and "/" not in name and not Path(given).exists():
        return name.strip(), _existing(Path(path))
    return "", _existing(Path(given))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: expected a run directory or a JSONL or Parquet file, found nothing there")
    return path


def _is_run(path: Path) -> bool:
    return path.is_dir() and (path / KEPT).exists()


def _strategy(path: Path) -> str | None:
    """The strategy that the first row of a run tells."""
    if not _is_run(path):
        return None
    made = next(read_rows(path), {}).get("made_with")
    strategy = made.get("strategy") if isinstance(made, dict) else None
    return strategy if isinstance(strategy, str) and strategy else None


def _distinct(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Names, those that occur several times by the ends of their paths, then numbered."""
    for other in ([path.stem for path in paths], ["/".join(path.parts[-2:]) for path in paths]):
        counts = Counter(names)
        names = [name if counts[name] == 1 else more for name, more in zip(names, other, strict=True)]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} {number}" for number, name in enumerate(names, start=1)]


def _reason(line: bytes, where: str) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: is no JSON: {error}") from error
    reason = row.get("reason") if isinstance(row, dict) else None
    if not isinstance(reason, str):
        raise DataError(f"{where}: expected a failed attempt with a reason, found {row!r:.60}")
    return reason


def _kept(run_dir: Path) -> Iterator[Response]:
    verdicts = read_verdicts(run_dir)
    for row in read_rows(run_dir):
        try:
            trajectory = from_row(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{run_dir}: row {row.get('id')!r}: is no trajectory: {error}") from error
        answer = trajectory.answer.text.strip() if trajectory.answer else ""
        verdict = verdicts.get(trajectory.id)
        yield Response(
            trajectory.id,
            trajectory.question,
            trajectory.thinking,
            answer,
            trajectory,
            {speaker: trajectory.tokens(speaker) for speaker in Speaker},
            trajectory.stop.value,
            verdict.right if verdict else judged(answer, trajectory.question.metadata),
        )


def _published(path: Path) -> Iterator[Response]:
    for number, (where, row) in enumerate(local_rows(path), start=1):
        try:
            question = to_question(row)
            assert isinstance(row, dict)
            thinking, answer = split_response(*assistant_turn(row))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        counts = {speaker: row.get(f"n_tokens_{speaker}") for speaker in Speaker}
        metadata = {**question.metadata, **_metadata(row)}
        yield Response(
            str(row.get("id") or number),
            question,
            thinking,
            answer,
            tokens={speaker: count for speaker, count in counts.items() if type(count) is int},
            stop=row["stop"] if row.get("stop") in list(StopReason) else None,
            right=judged(answer, metadata),
        )


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question's own metadata, which an export holds as JSON text."""
    held = row.get("metadata")
    try:
        loaded = orjson.loads(held) if isinstance(held, str) else held
    except orjson.JSONDecodeError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def judged(answer: str, metadata: Mapping[str, Any]) -> bool | None:
    """Whether an answer gives the gold answer that a question's metadata holds."""
    gold, kind = metadata.get("answer"), metadata.get("answer_kind")
    if type(gold) in (int, float):
        gold = f"{gold:g}" if isinstance(gold, float) else str(gold)
    return is_right(answer, gold, kind if isinstance(kind, str) else "") if isinstance(gold, str) else None
