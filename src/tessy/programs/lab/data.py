"""The data of an arm: synthesized by a run, or written down by the embedded world itself; and what was right in them.

Either way it is a run directory, so that everything after reads one form.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tessy.adapters.store import Store, read_trajectories
from tessy.core.answers import Gold, gold_of, is_right
from tessy.core.cooperate import Response
from tessy.core.intervals import Mean, share
from tessy.core.strategies import Grade, Job, Strategy
from tessy.embedded.voices import Piece, Voice, respond
from tessy.embedded.world import Problem
from tessy.errors import DataError, RunError
from tessy.programs.evaluation import Verdict
from tessy.programs.evaluation.outcomes import Judge
from tessy.programs.lab.config import LabConfig, WorldQuestions
from tessy.programs.lab.questions import learned_problems
from tessy.programs.run import synthesize
from tessy.questions import Message, Question
from tessy.trajectory import WRITES, Label, Span, Speaker, StopReason, Trajectory

_SPEAKERS = {label: speaker for speaker, label in WRITES.items()}


@dataclass(frozen=True)
class Data:
    """What the data of an arm are (paper, Figures 6 and 17)."""

    rows: int
    failed: int
    """Questions without a row: their response was no training data."""
    right: Mean | None
    """Share of right answers, every question counting as much; None where there is no row."""
    tokens: int
    """As their writers counted them; 0 where the world wrote them down."""
    student_share: float
    """Of the tokens."""


async def make_data(lab: LabConfig, arm: str) -> None:
    """Make the arm's own data; what is there already stays.

    Raises:
        TessyError: what `synthesize` raises.
        RunError: rows are owed.
    """
    voice = lab.arms[arm].voice
    if voice is not None:
        assert isinstance(lab.questions, WorldQuestions)
        await _write_down(lab.data_dir(arm), learned_problems(lab.questions), voice)
        return
    config = lab.run_config(arm)
    # A teacher of the embedded world cannot grade on instruction: in its place grades who knows the answer, as a
    # teacher that is nearly always right would.
    embedded = config.teacher is not None and config.teacher.is_embedded
    grader = known_grade if config.strategy is Strategy.TEACHER_SCORE and embedded else None
    summary = await synthesize(config, grader=grader)
    if summary.owed:
        raise RunError(f"{config.run_dir}: {summary.owed} rows are owed ({summary.stopped_because})")


async def known_grade(job: Job, candidate: Response, part: str) -> Grade:
    """1 for a right answer, 0 for a wrong one, by the question's gold answer: a `Grader`.

    Raises:
        DataError: the gold answer is of no form that can be compared.
    """
    gold = _gold(job.question)
    right = gold and candidate.answer and is_right(candidate.answer.text, gold.text, gold.kind)
    return Grade(float(bool(right)))


def measure_data(run_dir: Path, asked: int) -> Data:
    """What the data in a run directory are, which `asked` questions were wanted for.

    Raises:
        DataError: the run directory cannot be read, or a gold answer is of no form that can be compared.
        ModelError: values have to be compared, and math-verify is not installed.
    """
    tokens = student = 0
    right: dict[str, list[bool]] = {}
    """By question, response by response."""
    with Judge() as judge:
        for row in read_trajectories(run_dir):
            tokens += row.tokens()
            student += row.tokens(Speaker.STUDENT)
            gold = _gold(row.question)
            is_so = gold is not None and judge("data", row, gold).verdict is Verdict.RIGHT
            right.setdefault(row.question.id, []).append(is_so)
    rows = sum(map(len, right.values()))
    means = [sum(responses) / len(responses) for responses in right.values()]
    mean = share(means, rows) if means else None
    return Data(rows, asked - len(right), mean, tokens, student / max(1, tokens))


def _gold(question: Question) -> Gold | None:
    try:
        return gold_of(question.metadata)
    except ValueError as error:
        raise DataError(f"question {question.text[:60]!r}: {error}") from error


async def _write_down(run_dir: Path, drawn: Iterable[Problem], voice: Voice) -> None:
    """Right solutions in a voice, as rows of a run: what a teacher of that style would write."""
    store = Store(str(run_dir), {"strategy": f"written in the voice {voice}"})
    try:
        for problem in drawn:
            gold = {"answer": problem.answer, "answer_kind": "exact"}
            question = Question((Message("user", problem.question),), gold)
            written = respond(problem, random.Random(f"{voice} {problem.question}"), [voice], [Voice.TEACHER])
            spans = tuple(_span(label, pieces) for label, pieces in groupby(written.pieces, _label))
            answer = Span(Speaker.STUDENT, f"The answer is {problem.answer}.", 0, 0, 0)
            trajectory = Trajectory(question, 0, spans, answer, StopReason.FINISHED)
            if not store.is_kept(trajectory.id):
                await store.keep(trajectory)
    finally:
        await store.close()


def _label(piece: Piece) -> Label:
    return piece.label


def _span(label: Label, pieces: Iterable[Piece]) -> Span:
    return Span(_SPEAKERS[label], "".join(piece.text for piece in pieces), 0, 0, 0)
