"""The lab's questions as files: of the embedded world, or somebody's own in any form that `tessy` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import orjson

from tessy.adapters.sources import Source, open_source, read_questions
from tessy.embedded.world import Problem, problems
from tessy.errors import DataError
from tessy.programs.directory import replace_whole
from tessy.programs.lab.config import LabConfig, WorldQuestions


def write_questions(lab: LabConfig) -> None:
    """Write what is learned from to `questions.jsonl`, and each set to be measured on to `sets/NAME.jsonl`.

    Somebody's own are read by the adapter that their columns tell, and written down as conversations, each once.

    Raises:
        DataError: questions cannot be read, or nothing can be written; the message names file and line.
        RunError: nothing can be written.
    """
    try:
        (lab.path / "sets").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    _write(lab.questions, lab.questions_file, learned=True)
    for name, source in lab.sets.items():
        _write(source, lab.set_file(name), learned=False)


def learned_problems(source: WorldQuestions) -> list[Problem]:
    """The problems that questions of the embedded world are learned from."""
    return problems(source.world, "train", source.n, source.seed)


def learned_questions(lab: LabConfig, arm: str) -> list[str]:
    """The ids of the questions whose responses an arm learns, in their order.

    Raises:
        DataError: they cannot be read.
    """
    each_once = dict.fromkeys(question.id for question in read_questions(lab.questions_file))
    return list(islice(each_once, lab.arms[arm].questions))


def _write(source: str | WorldQuestions, path: Path, *, learned: bool) -> None:
    if isinstance(source, str):
        lines = _own(source)
    elif learned:
        lines = _rows(learned_problems(source))
    else:
        lines = _rows(problems(source.world, "test", source.n, source.seed))
    replace_whole(path, b"".join(lines))


def _own(source: str) -> Iterator[bytes]:
    written = set()
    for _, asked in open_source(Source(source)).questions():
        if asked and asked.question.id not in written:
            written.add(asked.question.id)
            row = dict(asked.question.metadata) | {"messages": asked.question.messages}
            yield orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _rows(drawn: Iterable[Problem]) -> Iterator[bytes]:
    for problem in drawn:
        row = {"question": problem.question, "answer": problem.answer, "answer_kind": "exact"}
        yield orjson.dumps(row | {"family": problem.family}) + b"\n"
