"""What a lab's folder holds so far: figures of data, students by epoch and seed, and of both models as they are.

Reads files only, so that an experiment that is not finished can be looked at. Computes no figure of its own but means
over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessy.adapters.store import KEPT
from tessy.core.intervals import Mean, mean
from tessy.programs.evaluation import Outcome, read_evaluation, read_outcomes
from tessy.programs.evaluation.figures import difference
from tessy.programs.evaluation.program import EVALUATION, OUTCOMES
from tessy.programs.lab.config import LabConfig
from tessy.programs.lab.data import Data, measure_data
from tessy.programs.lab.questions import learned_questions

MODELS = ("student", "teacher")
"""The two models as they are, measured beside the arms."""

MAX_EPOCHS = 100
"""Epochs that are looked for."""


@dataclass(frozen=True)
class Score:
    """What some students of one kind came to on one set, over the seeds that are there."""

    accuracy: Mean
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class Measured:
    """One arm (or a model as it is) after some epoch, over all seeds."""

    name: str
    sets: Mapping[str, Score]
    others: Score | None
    """The mean over all sets but the one that is trained on; None where there is no other."""
    unfinished: float
    thinking_tokens: float


def evaluation_dir(lab: LabConfig, name: str, seed: int, epoch: int | None) -> Path:
    """Where a student after an epoch (None: the last), or a model as it is, is measured."""
    if name in MODELS:
        return lab.path / "models" / name / f"seed-{seed}"
    return lab.student_dir(name, seed) / "evaluations" / ("last" if epoch is None else f"epoch-{epoch}")


def learned_dir(lab: LabConfig, arm: str) -> Path:
    """The run directory that an arm learns: the data of some arm, or the part of them for its questions."""
    count = lab.arms[arm].questions
    return lab.data_dir(lab.source(arm) if count is None else f"{lab.source(arm)}-first-{count}")


class Results:
    """What there is of an experiment. What takes time, rows and outcomes, is read once, when it is first asked for."""

    def __init__(self, lab: LabConfig) -> None:
        self.lab = lab
        self._data: dict[Path, Data] = {}
        self._outcomes: dict[str, Sequence[Outcome]] = {}

    def data_of(self, arm: str) -> Data | None:
        """Figures of what an arm learned; None while there is nothing."""
        path = learned_dir(self.lab, arm)
        if not (path / KEPT).exists():
            return None
        if path not in self._data:
            self._data[path] = measure_data(path, len(learned_questions(self.lab, arm)))
        return self._data[path]

    def measured(self, name: str, epoch: int | None = None) -> Measured | None:
        """The figures of an arm after an epoch, over the seeds that are done; None while there are none."""
        lab = self.lab
        found = {
            seed: read_evaluation(folder)
            for seed in lab.seeds
            if (folder := evaluation_dir(lab, name, seed, epoch)).joinpath(EVALUATION).exists()
        }
        if not found:
            return None
        by_set = {
            each: {seed: evaluation.sets[each].pass_at_1.value for seed, evaluation in found.items()}
            for each in lab.sets
        }
        rest = [each for each in lab.sets if each != lab.in_domain]
        others = (
            {seed: sum(by_set[each][seed] for each in rest) / len(rest) for seed in found} if rest else {}
        )
        overall = [evaluation.overall for evaluation in found.values()]
        return Measured(
            name,
            {each: _score(values) for each, values in by_set.items()},
            _score(others) if others else None,
            sum(each.unfinished for each in overall) / len(overall),
            sum(each.thinking_tokens for each in overall) / len(overall),
        )

    def by_epoch(self, arm: str) -> dict[int, Measured]:
        """The figures of an arm after each epoch but the last; empty where only that was measured."""
        return {epoch: found for epoch in range(1, MAX_EPOCHS) if (found := self.measured(arm, epoch))}

    def compared(self, first: str, second: str) -> Mean | None:
        """How much more `second` has right than `first` on the questions of the set that is trained on.

        Paired by question, each question's mean over all seeds; None where one of the two is not there.
        """
        sides = [self._of(name) for name in (first, second)]
        found = difference(*sides) if all(sides) else None
        return found.difference if found else None

    def _of(self, name: str) -> Sequence[Outcome]:
        if name not in self._outcomes:
            lab = self.lab
            files = (evaluation_dir(lab, name, seed, None) / OUTCOMES for seed in lab.seeds)
            found = (outcome for file in files if file.exists() for outcome in read_outcomes(file))
            self._outcomes[name] = [outcome for outcome in found if outcome.set == lab.in_domain]
        return self._outcomes[name]


def _score(by_seed: Mapping[int, float]) -> Score:
    return Score(mean(list(by_seed.values())), by_seed)
