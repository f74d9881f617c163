"""lab.yaml: questions, sets to be measured on, how the student learns, and the arms that are compared.

An arm is one way to make a student: whose data it learns and how. Opens nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from tessy.embedded.voices import Voice
from tessy.embedded.world import Family
from tessy.errors import ConfigError
from tessy.programs.config import ModelConfig, RunConfig
from tessy.programs.evaluation import EvaluationConfig
from tessy.programs.settings import Section, checked, override, read
from tessy.programs.sft import SFTConfig

_HINT = "recipes/lab has some"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.=-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]


class WorldQuestions(Section):
    """Questions of the embedded world: those to learn from are of its train split, the others of its test split."""

    world: Family
    n: Count
    seed: int = 0


class ArmConfig(Section):
    """One way to make a student."""

    groups: list[str] = Field(["strategies"], min_length=1)
    """Arms of a group stand in one table; one that others are compared with stands in several."""
    data: Name | None = None
    """Another arm, whose data it learns; None: data of its own."""
    voice: Voice | None = None
    """Its data are not synthesized: the world writes right solutions down in this voice."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Dotted fields of run.yaml that differ from `run`."""
    questions: Count | None = None
    """It learns the first so many questions; None: all."""
    sft: dict[str, Any] = Field(default_factory=dict)
    """Dotted fields of sft.yaml that differ from `sft`."""


class LabConfig(Section):
    """A whole experiment."""

    folder: str = Field(min_length=1, description="expected a folder for everything that is made")
    questions: str | WorldQuestions = Field(
        description="expected a file of questions, or {world: story, n: 300}"
    )
    sets: dict[Name, str | WorldQuestions] = Field(
        min_length=1,
        description="expected question sets with answers by name, the one that is trained on first",
    )
    run: dict[str, Any] = Field(description="expected the fields of run.yaml but questions and run_dir")
    sft: dict[str, Any] = Field(default_factory=dict)
    """Fields of sft.yaml but the student, the data and the folder."""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Fields of evaluate.yaml but the model, the questions and the folder."""
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    """Of the fine-tuning and of the evaluation's draws; each makes a student of its own."""
    every_epoch: list[str] = Field(default_factory=list)
    """Groups of which each epoch is measured, not only the last. Students are made once: it cannot be changed later."""
    arms: dict[Name, ArmConfig] = Field(min_length=1, description="expected what is compared, by name")

    @model_validator(mode="after")
    def _both_models_are_there(self) -> LabConfig:
        for speaker in ("student", "teacher"):
            fields = self.run.get(speaker)
            if not isinstance(fields, dict) or not {"model", "format"} <= fields.keys():
                raise ValueError(f"run.{speaker}: expected its fields, model and format among them")
        return self

    @model_validator(mode="after")
    def _arms_fit(self) -> LabConfig:
        for name, arm in self.arms.items():
            if sum((arm.data is not None, arm.voice is not None, bool(arm.run))) > 1:
                raise ValueError(f"arms.{name}: expected one of data, voice, and a run of its own")
            if arm.data is not None and (arm.data not in self.arms or self.arms[arm.data].data is not None):
                raise ValueError(
                    f"arms.{name}.data: expected an arm with data of its own, found {arm.data!r}"
                )
            if arm.voice is not None and not isinstance(self.questions, WorldQuestions):
                raise ValueError(f"arms.{name}.voice: goes with questions of the embedded world only")
        if taken := {"student", "teacher"} & set(self.arms):
            raise ValueError(f"arms.{taken.pop()}: is the name of a model that is measured as it is")
        return self

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def in_domain(self) -> str:
        """The set of the kind of questions that is learned."""
        return next(iter(self.sets))

    def source(self, arm: str) -> str:
        """The arm whose data an arm learns: itself, or another one."""
        return self.arms[arm].data or arm

    def own_data(self) -> list[str]:
        """The arms with data of their own."""
        return [name for name, arm in self.arms.items() if arm.data is None]

    def data_dir(self, arm: str) -> Path:
        """The run directory of an arm's own data."""
        return self.path / "data" / arm

    def student_dir(self, arm: str, seed: int) -> Path:
        """Where a student of an arm is made and measured."""
        return self.path / "students" / arm / f"seed-{seed}"

    def run_config(self, arm: str) -> RunConfig:
        """The run that makes an arm's own data.

        Raises:
            ConfigError: a field is wrong.
        """
        data = copy.deepcopy(self.run)
        for name, value in self.arms[arm].run.items():
            override(data, name, value)
        files = {"questions": str(self.questions_file), "run_dir": str(self.data_dir(arm))}
        return checked(RunConfig, data | files, f"arms.{arm}.run")

    def sft_config(self, arm: str, seed: int, data: Path) -> SFTConfig:
        """How a student of an arm learns `data`.

        Raises:
            ConfigError: a field is wrong.
        """
        given = copy.deepcopy(self.sft)
        for name, value in self.arms[arm].sft.items():
            override(given, name, value)
        own = {
            "student": self.run["student"]["model"],
            "format": self.run["student"]["format"],
            "data": str(data),
            "folder": str(self.student_dir(arm, seed) / "model"),
            "seed": seed,
            "keep_epochs": not set(self.every_epoch).isdisjoint(self.arms[arm].groups),
        }
        return checked(SFTConfig, given | own, f"arms.{arm}.sft" if self.arms[arm].sft else "sft")

    def evaluation_config(self, model: Mapping[str, Any], seed: int, folder: Path) -> EvaluationConfig:
        """How a model is measured; `model` has the fields of a speaker in run.yaml.

        Raises:
            ConfigError: a field is wrong.
        """
        own = {
            "model": {name: model[name] for name in ModelConfig.model_fields if name in model},
            "sets": {name: self._measured_on(name) for name in self.sets},
            "folder": str(folder),
            "seed": seed,
        }
        return checked(EvaluationConfig, self.evaluation | own, "evaluation")

    @property
    def questions_file(self) -> Path:
        """Where the questions are that are learned from."""
        return self.path / "questions.jsonl"

    def set_file(self, name: str) -> Path:
        """Where the questions of a set are."""
        return self.path / "sets" / f"{name}.jsonl"

    def _measured_on(self, name: str) -> str | dict[str, str]:
        """A set for evaluate.yaml. Columns of somebody's own are kept, but tell no adapter a second time."""
        path = str(self.set_file(name))
        own = isinstance(self.sets[name], str)
        return {"source": path, "adapter": "conversation"} if own else path


def load_lab_config(path: str | Path, overrides: Iterable[str] = ()) -> LabConfig:
    """Read a lab.yaml and apply dotted `key=value` overrides (values are YAML).

    Raises:
        ConfigError: the file or an override cannot be read, or a field is wrong; one line names each field.
    """
    lab = checked(LabConfig, read(path, overrides, _HINT), str(path))
    for name, arm in lab.arms.items():
        if arm.data is None and arm.voice is None:
            lab.run_config(name)
        lab.sft_config(name, 0, lab.path)
    for speaker in ("student", "teacher"):
        lab.evaluation_config(lab.run[speaker], 0, lab.path)
    return lab


def chosen(lab: LabConfig, arms: Iterable[str]) -> LabConfig:
    """The same experiment with some of its arms, and those whose data they learn.

    Raises:
        ConfigError: there is no such arm.
    """
    wanted = list(arms)
    if missing := [name for name in wanted if name not in lab.arms]:
        raise ConfigError(f"arm {missing[0]!r}: expected one of {', '.join(lab.arms)}")
    kept: Mapping[str, ArmConfig] = {
        name: arm for name, arm in lab.arms.items() if name in wanted or name in map(lab.source, wanted)
    }
    return lab.model_copy(update={"arms": dict(kept)}) if wanted else lab
