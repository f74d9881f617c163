"""The fine-tuning as a program: lessons into the student's vocabulary, and those into the trainer.

Composes; the training is `adapters.training.sft`'s, what is learned of a response `core.lessons`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import yaml

from tessy.adapters.tokenizer import HFTokenizer
from tessy.adapters.training.sft import FineTuned, SFTOptions, SFTProgress, fine_tune
from tessy.core.formats import FORMATS, ReasoningFormat, Thinking
from tessy.core.lessons import Encoded, Lesson, encode
from tessy.programs.directory import replace_whole
from tessy.programs.sft.config import SFTConfig
from tessy.programs.sft.data import Side, lessons

CONFIG = "sft.yaml"


def sft(config: SFTConfig, *, progress: Callable[[SFTProgress], None] = lambda _: None) -> FineTuned:
    """Fine-tune as the configuration says, into its folder; see `learn`.

    Raises:
        ConfigError: two fields do not go together.
        DataError: the data cannot be read, or nothing in them can be learned.
        ModelError: the student cannot be loaded or trained; an extra is not installed.
        RunError: another process is training into the folder, or it holds an interrupted training with other options
            or data.
    """
    options, folder = config.options(), Path(config.folder)

    def side(which: Side) -> Iterator[Lesson]:
        return lessons(
            config.sources(), which, where=config.where, validation=config.validation, limit=config.limit
        )

    made = learn(
        side(Side.TRAIN),
        options,
        folder,
        format=config.reasoning_format(),
        validation=side(Side.VALIDATION),
        progress=progress,
    )
    written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_whole(folder / CONFIG, written.encode())
    return made


def learn(
    train: Iterable[Lesson],
    options: SFTOptions,
    folder: str | Path,
    *,
    format: ReasoningFormat = FORMATS["qwen3"],
    validation: Iterable[Lesson] = (),
    progress: Callable[[SFTProgress], None] = lambda _: None,
) -> FineTuned:
    """Fine-tune a student on lessons; see `adapters.training.sft.fine_tune`, which this calls. Blocks until it is done.

    Args:
        train: what is learned.
        options: how, and which student.
        folder: where the model goes.
        format: how the student thinks.
        validation: lessons whose loss is only looked at.
        progress: called after each update.

    Raises:
        DataError, ModelError, RunError: as there.
    """
    tokenizer = HFTokenizer(options.student)
    thinking, end = Thinking(format, tokenizer), tokenizer.end_of_turn

    def encoded(side: Iterable[Lesson]) -> Iterator[Encoded]:
        return (encode(each, thinking, tokenizer, end) for each in side)

    return fine_tune(encoded(train), options, Path(folder), validation=encoded(validation), progress=progress)
