"""The fine-tuning itself: what the trainer is set up with, how an interrupted one goes on, what it leaves behind.

Owns the Trainer's arguments (silent, one device, a checkpoint for each epoch) and the ordinary model that comes out,
whatever it was trained as. Checkpoints lie in the model's folder and go when all else is written. Importing this
module imports torch, transformers, datasets, trl and peft; `tessy.adapters.training.sft` does so when it must.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoConfig, PrinterCallback, set_seed
from transformers.utils import is_accelerate_available
from trl import SFTConfig

from tessy.adapters.locks import alone
from tessy.adapters.models import load_causal
from tessy.adapters.training.base import line, load_tokenizer, public_name, quiet, save
from tessy.adapters.training.checkpoints import CHECKPOINTS, claim
from tessy.adapters.training.record import write_record
from tessy.adapters.training.sft import log
from tessy.adapters.training.sft.card import write_card
from tessy.adapters.training.sft.merged import ordinary
from tessy.adapters.training.sft.records import (
    FineTuned,
    SFTOptions,
    SFTProgress,
    read_fine_tuned,
)
from tessy.adapters.training.sft.rows import Collator, Order, Side, by_length, collect, packed
from tessy.adapters.training.sft.trainer import SplitTrainer
from tessy.core.lessons import Encoded
from tessy.errors import DataError, ModelError

if not is_accelerate_available():  # of the right version; the Trainer itself says so much later
    raise ImportError("accelerate")

EPOCHS = "epochs"
_LOCK = ".lock"


@dataclass(frozen=True)
class _Plan:
    """Options as they came to, and the rows that they are for."""

    options: SFTOptions
    rows: Side
    checks: Side | None
    batch: int
    """Rows of one update."""
    micro_batch: int
    """Rows of one forward."""
    cpu: bool
    bf16: bool
    dtype: torch.dtype
    """The student's own."""

    @property
    def updates(self) -> int:
        """Updates of all epochs."""
        steps = math.ceil(len(self.rows.lengths) / self.batch) * self.options.epochs
        return min(steps, self.options.updates or steps)


def fine_tune(
    train: Iterable[Encoded],
    validation: Iterable[Encoded],
    options: SFTOptions,
    folder: Path,
    progress: Callable[[SFTProgress], None],
) -> FineTuned:
    """See `tessy.adapters.training.sft.fine_tune`."""
    folder = folder.absolute()
    with quiet(), _hushed(), _mapped(folder, options.student):
        plan = _plan(train, validation, options)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / _LOCK, f"{folder}: another process is training into this folder"):
            return _train(plan, folder, progress)


def _train(plan: _Plan, folder: Path, progress: Callable[[SFTProgress], None]) -> FineTuned:
    which, options = _identity(plan), plan.options
    work = folder / CHECKPOINTS
    if not work.exists() and (finished := read_fine_tuned(folder, which)):
        return finished
    last = claim(work, which)
    if last is None:  # an epoch of another training is none of this one
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)
    set_seed(options.seed)
    tokenizer = load_tokenizer(options.student)
    trainer = _trainer(plan, tokenizer, work)

    def leave(number: int) -> None:
        _save(trainer.model, tokenizer, folder / EPOCHS / str(number), plan.dtype)

    trainer.add_callback(log.Teller(folder, leave if options.keep_epochs else None, progress))
    trainer.train(resume_from_checkpoint=last)
    save(ordinary(trainer.model, plan.dtype), tokenizer, folder, plan.dtype)
    made = _made(plan, trainer)
    write_card(folder, made)
    write_record(folder, made, which)
    shutil.rmtree(work)  # last of all: whatever failed before goes on from here
    return made


def _plan(train: Iterable[Encoded], validation: Iterable[Encoded], options: SFTOptions) -> _Plan:
    """Read the data, and decide what the options leave open.

    Raises:
        DataError: nothing is left to learn from.
        ModelError: there is no such student or no such device.
    """
    try:
        config = AutoConfig.from_pretrained(options.student)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError
        raise ModelError(
            f"cannot load the model {options.student!r} (a folder or a hub name): {line(error)}"
        ) from error
    gpu = torch.cuda.is_available()
    if options.device == "cuda" and not gpu:
        raise ModelError("device: 'cuda', and torch finds no GPU")
    cpu = options.device == "cpu" or not gpu
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = min(options.max_length or context or 2**31, context or 2**31)
    truncate = options.too_long == "truncate"
    rows, checks = (collect(side, longest, truncate) for side in (train, validation))
    if not rows.lengths:
        raise DataError(
            f"nothing to learn from: of {rows.counts.too_long} responses all are longer than {longest} tokens"
        )
    responses = len(rows.lengths)
    if options.packs:
        rows = packed(rows, longest)
    # `batch` counts responses: as many packs as hold so many.
    share = len(rows.lengths) / responses
    micro = max(1, round(min(options.micro_batch, options.batch) * share))
    return _Plan(
        options=replace(options, max_length=longest, packing=options.packs),
        rows=rows,
        checks=by_length(checks) if checks.lengths else None,
        batch=max(micro, round(options.batch * share / micro) * micro),
        micro_batch=micro,
        cpu=cpu,
        bf16=options.dtype == "bfloat16" or (options.dtype == "auto" and not cpu),
        dtype=config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32,
    )


def _identity(plan: _Plan) -> str:
    """Hexadecimal digits that differ where a training is another one. On which device it runs does not matter."""
    given = asdict(plan.options)
    for aside in ("device", "dtype", "log_every", "keep_epochs", "gradient_checkpointing", "attention"):
        del given[aside]
    digest = hashlib.sha256(orjson.dumps(given, option=orjson.OPT_SORT_KEYS))
    for side in (plan.rows, plan.checks):
        digest.update(side.digest.encode() if side else b"none")
    return digest.hexdigest()[:24]


def _trainer(plan: _Plan, tokenizer: Any, work: Path) -> SplitTrainer:
    options = plan.options
    # What is not trained is held as it is computed in; what is trained needs all of its digits.
    held = "bfloat16" if options.lora and plan.bf16 else "float32"
    model = load_causal(options.student, "cpu", held, attn_implementation=options.attention)
    lora = options.lora and LoraConfig(
        r=options.lora.r,
        lora_alpha=options.lora.alpha,
        lora_dropout=options.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = SplitTrainer(
        model,
        _arguments(plan, work),
        data_collator=Collator(packed=plan.rows.packed),
        train_dataset=plan.rows.dataset,
        eval_dataset=plan.checks.dataset if plan.checks else None,
        processing_class=tokenizer,
        peft_config=lora or None,
        order=Order(plan.rows.lengths, plan.batch, options.seed),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(plan: _Plan, work: Path) -> SFTConfig:
    """One device, no output of its own, an evaluation and a checkpoint for each epoch."""
    options = plan.options
    arguments = SFTConfig(
        output_dir=str(work),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup" if options.schedule == "constant" else options.schedule,
        warmup_steps=int(options.warm_up * plan.updates),
        weight_decay=options.weight_decay,
        max_grad_norm=1.0,
        per_device_train_batch_size=plan.micro_batch,
        per_device_eval_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.batch // plan.micro_batch,
        num_train_epochs=options.epochs,
        max_steps=plan.updates if options.updates else -1,
        seed=options.seed,
        use_cpu=plan.cpu,
        bf16=plan.bf16,
        activation_checkpointing=not plan.cpu
        if options.gradient_checkpointing is None
        else options.gradient_checkpointing,
        dataloader_pin_memory=not plan.cpu,
        eval_strategy="epoch" if plan.checks else "no",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=options.log_every,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # TRL refuses to split a batch over all of them
    return arguments


def _made(plan: _Plan, trainer: SplitTrainer) -> FineTuned:
    told = trainer.state.log_history
    ours = [each.numel() for each in trainer.model.parameters() if each.requires_grad]
    added = sum(each.numel() for name, each in trainer.model.named_parameters() if ".lora_" in name)
    return FineTuned(
        options=replace(plan.options, student=public_name(plan.options.student)),
        train=plan.rows.counts,
        validation=plan.checks.counts if plan.checks else None,
        epochs=log.epochs(told),
        updates=trainer.state.global_step,
        parameters=trainer.model.num_parameters() - added,
        trained_parameters=sum(ours),
        seconds=round(log.seconds(told), 3),
    )


def _save(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a model folder, whole or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    save(ordinary(model, dtype), tokenizer, part, dtype)
    part.rename(folder)


@contextmanager
def _hushed() -> Iterator[None]:
    """None of the libraries' warnings to one another about what they will rename."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _mapped(folder: Path, student: str) -> Iterator[None]:
    """Foreign errors of a training as our own."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "not enough memory on the GPU: a smaller micro_batch needs less, as do lora and max_length"
        ) from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}: cannot be written: {line(error)}") from error
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"fine-tuning {student!r} failed: {line(error)}") from error
