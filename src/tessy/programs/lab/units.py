"""One part of an experiment, done in a process of its own: data, a student, or a model as it is.

Each goes on where it was interrupted, since the programs that it calls do. Nothing here is printed or counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from tessy.adapters.store import KEPT, read_rows
from tessy.programs.directory import replace_whole
from tessy.programs.evaluation import evaluate
from tessy.programs.evaluation.program import EVALUATION
from tessy.programs.lab.config import LabConfig
from tessy.programs.lab.data import make_data
from tessy.programs.lab.questions import learned_questions
from tessy.programs.lab.results import MODELS, evaluation_dir, learned_dir
from tessy.programs.sft import sft


@dataclass(frozen=True)
class Unit:
    """A part of an experiment; `seed` is None for the data of an arm."""

    lab: LabConfig
    name: str
    seed: int | None = None

    def __str__(self) -> str:
        return f"data of {self.name}" if self.seed is None else f"{self.name}, seed {self.seed}"

    async def do(self) -> None:
        """Do it, or what is left of it.

        Raises:
            TessyError: what the programs raise.
        """
        if self.seed is None:
            await make_data(self.lab, self.name)
        elif self.name in MODELS:
            folder = evaluation_dir(self.lab, self.name, self.seed, None)
            await evaluate(self.lab.evaluation_config(self.lab.run[self.name], self.seed, folder))
        else:
            await _learn(self.lab, self.name, self.seed)

    @property
    def done(self) -> bool:
        """Whether there is nothing left of it to do, as far as can be told without doing it."""
        if self.seed is None:
            return False
        return (evaluation_dir(self.lab, self.name, self.seed, None) / EVALUATION).exists()


async def _learn(lab: LabConfig, arm: str, seed: int) -> None:
    """Make the student, and measure it after its last epoch, or after each."""
    config = lab.sft_config(arm, seed, learned_data(lab, arm))
    sft(config)  # blocks: nothing else goes on in this process
    # The last epoch is measured last: its figures say that all of it is done.
    for epoch in [*range(1, config.epochs), None] if config.keep_epochs else [None]:
        made = Path(config.folder)
        folder = made if epoch is None else made / "epochs" / str(epoch)
        student = {**lab.run["student"], "model": str(folder), "base_url": "local"}
        await evaluate(lab.evaluation_config(student, seed, evaluation_dir(lab, arm, seed, epoch)))


def learned_data(lab: LabConfig, arm: str) -> Path:
    """What the arm learns: a run directory, or a part of one, which is written; by the order of the questions.

    Raises:
        DataError: the questions or the rows cannot be read.
        RunError: the part cannot be written.
    """
    whole, part = lab.data_dir(lab.source(arm)), learned_dir(lab, arm)
    if part == whole:
        return whole
    wanted = set(learned_questions(lab, arm))
    rows = (row for row in read_rows(whole) if row["question_id"] in wanted)
    part.mkdir(parents=True, exist_ok=True)
    replace_whole(part / KEPT, b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return part
