"""Supervised fine-tuning of a student on responses: encoded lessons in, a folder that any `from_pretrained` reads out.

Owns the options, what is known of a fine-tuning afterwards (`FineTuned`), the training through TRL's SFTTrainer, and
the loss by kind of token. What is learned of a response, and as which tokens, is `tessy.core.lessons`'s. Refuses to
know where responses come from and how good the student is afterwards.

torch, transformers, trl and peft are imported when a training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tessy.adapters.training.sft.records import (
    LOSSES,
    Counts,
    FineTuned,
    LoraOptions,
    Losses,
    SFTOptions,
    SFTProgress,
    read_fine_tuned,
    read_losses,
)
from tessy.core.lessons import Encoded
from tessy.errors import ModelError

__all__ = [
    "LOSSES",
    "Counts",
    "FineTuned",
    "LoraOptions",
    "Losses",
    "SFTOptions",
    "SFTProgress",
    "fine_tune",
    "read_fine_tuned",
    "read_losses",
]


def fine_tune(
    train: Iterable[Encoded],
    options: SFTOptions,
    folder: Path,
    *,
    validation: Iterable[Encoded] = (),
    progress: Callable[[SFTProgress], None] = lambda _: None,
) -> FineTuned:
    """Fine-tune a student into `folder`: weights, tokenizer, chat template, `losses.jsonl`, a record and a card.

    A fine-tuning that was interrupted goes on from its last whole epoch; one that is finished, with the same options
    and data, is not repeated. Blocks until it is done: call it in a thread.

    Args:
        train: what is learned. It is read once; 5 bytes a token stay in memory.
        options: how.
        folder: where; made if it is not there.
        validation: the loss of these is told after each epoch; it decides nothing.
        progress: called after each update. What it raises ends the training, which can go on later.

    Raises:
        ModelError: the extra is not installed; the student cannot be loaded, or there is no such device.
        DataError: no response is short enough; `folder` cannot be written.
        RunError: another process is training into `folder`, or it holds an interrupted training with other options or
            data.
    """
    try:
        from tessy.adapters.training.sft.train import fine_tune as run
    except ImportError as error:
        raise ModelError("fine-tuning needs torch, trl and peft: pip install 'tessy[sft]'") from error
    return run(train, validation, options, folder, progress)
