"""Fine-tuning the embedded student, for real: losses, their split, resuming, LoRA, packing, what comes out."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lessons import trajectories, write_run
from tessy import embedded
from tessy.adapters.likelihood import LocalLikelihood
from tessy.adapters.tokenizer import HFTokenizer
from tessy.adapters.training.sft import (
    FineTuned,
    LoraOptions,
    SFTOptions,
    SFTProgress,
    fine_tune,
    read_fine_tuned,
    read_losses,
)
from tessy.core.formats import FORMATS, Thinking
from tessy.core.lessons import Encoded, Kind, encode, lesson
from tessy.errors import ConfigError, DataError, ModelError, RunError
from tessy.programs.sft import learn

STUDENT = str(embedded.path("student"))
KEPT = sorted(trajectories(80), key=lambda each: len(each.thinking))[:24]
"""The short ones: what is tested does not need long ones."""
CHECKS = trajectories(6, seed=1)


def encoded(kept: list[Any]) -> list[Encoded]:
    tokenizer = HFTokenizer(STUDENT)
    thinking = Thinking(FORMATS["qwen3"], tokenizer)
    return [encode(lesson(each), thinking, tokenizer, tokenizer.end_of_turn) for each in kept]


ROWS = encoded(KEPT)


def options(**given: Any) -> SFTOptions:
    few: dict[str, Any] = {
        "student": STUDENT,
        "batch": 8,
        "micro_batch": 4,
        "epochs": 1,
        "log_every": 2,
        "learning_rate": 1e-3,
    }
    return SFTOptions(**few | given)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class StoppedError(Exception):
    """The process is gone."""


def stop_after(updates: int) -> Callable[[SFTProgress], None]:
    def progress(now: SFTProgress) -> None:
        if now.updates == updates:
            raise StoppedError

    return progress


# --- what comes out -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FineTuned]:
    folder = tmp_path_factory.mktemp("sft") / "model"
    return folder, learn(map(lesson, KEPT), options(epochs=3), folder, validation=map(lesson, CHECKS))


def test_it_learns_and_leaves_an_ordinary_model(made: tuple[Path, FineTuned]) -> None:
    folder, record = made
    train = [row for row in record.epochs if row.side == "train"]
    checks = [row for row in record.epochs if row.side == "validation"]
    assert [row.epoch for row in train] == [row.epoch for row in checks] == [1, 2, 3]
    assert train[-1].loss < train[0].loss
    assert checks[0].tokens == checks[-1].tokens
    assert checks[0].loss != checks[-1].loss
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.bfloat16  # the student's own
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not same(folder, Path(STUDENT))
    assert same(folder, folder / "epochs" / "3")
    assert not same(folder, folder / "epochs" / "1")
    assert not (folder / "checkpoints").exists()


def test_the_record_the_losses_and_the_card(made: tuple[Path, FineTuned]) -> None:
    folder, record = made
    assert read_fine_tuned(folder) == record
    assert record.train.learned == 24
    assert record.train.kind_tokens == {
        kind.name.lower(): sum(row.kinds.count(kind) for row in ROWS)
        for kind in (Kind.STYLE, Kind.CAPABILITY, Kind.ANSWER)
    }
    losses = read_losses(folder)
    assert [(row.update, row.side) for row in losses if row.epoch <= 1] == [
        (2, "train"), (3, "train"), (3, "validation")
    ]  # fmt: skip
    for row in losses:
        assert sum(row.kind_tokens.values()) == row.tokens
        together = sum(row.kinds[kind] * count for kind, count in row.kind_tokens.items())
        assert together / row.tokens == pytest.approx(row.loss, abs=1e-5)
    card = (folder / "README.md").read_text()
    assert "24 responses of" in card
    assert "| epoch | side | loss | style | capability | answer |" in card
    assert STUDENT not in card + (folder / "training.json").read_text()


def test_the_split_is_that_of_a_direct_forward_pass(tmp_path: Path) -> None:
    # One update over everything: its losses are those of the student as it was.
    made = fine_tune(ROWS, options(batch=24), tmp_path / "model")
    sums, counts = [0.0] * len(Kind), [0] * len(Kind)
    student = LocalLikelihood(STUDENT, dtype="float32")
    for row in ROWS:
        for kind, log in zip(row.kinds[1:], asyncio.run(student(row.ids)), strict=True):
            sums[kind] -= log
            counts[kind] += 1
    (epoch,) = made.epochs
    for kind in (Kind.STYLE, Kind.CAPABILITY, Kind.ANSWER):
        assert epoch.kind_tokens[kind.name.lower()] == counts[kind]
        assert epoch.kinds[kind.name.lower()] == pytest.approx(sums[kind] / counts[kind], abs=2e-5)
    assert epoch.loss == pytest.approx(sum(sums[1:]) / sum(counts[1:]), abs=1e-5)


def test_what_a_batch_learns_does_not_depend_on_its_parts(tmp_path: Path) -> None:
    """Gradient accumulation, padding and packing are nothing to the loss and to the weights."""
    plain = options(batch=8, epochs=2)
    losses = []
    for name, one in {
        "whole": replace(plain, micro_batch=8),
        "parts": replace(plain, micro_batch=2),
        "packed": replace(plain, micro_batch=4, packing=True, max_length=600),
    }.items():
        losses.append([row.loss for row in fine_tune(ROWS[:8], one, tmp_path / name).epochs])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-4)
    assert losses[0][1] < losses[0][0]


# --- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraOptions(r=4, dropout=0.1)], ids=["full", "lora"])
def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path: Path, lora: LoraOptions | None) -> None:
    plan = options(epochs=3, lora=lora)
    at_once = fine_tune(ROWS, plan, tmp_path / "at once", validation=ROWS[:4])
    with pytest.raises(StoppedError):
        fine_tune(ROWS, plan, tmp_path / "twice", validation=ROWS[:4], progress=stop_after(5))
    assert read_fine_tuned(tmp_path / "twice") is None
    seen: list[int] = []
    twice = fine_tune(
        ROWS, plan, tmp_path / "twice", validation=ROWS[:4], progress=lambda now: seen.append(now.updates)
    )
    assert seen[0] == 4  # after the first epoch's three
    assert replace(twice, seconds=0) == replace(at_once, seconds=0)
    assert same(tmp_path / "at once", tmp_path / "twice")
    assert read_losses(tmp_path / "twice") == read_losses(tmp_path / "at once")
    assert all(same(tmp_path / "at once" / "epochs" / n, tmp_path / "twice" / "epochs" / n) for n in "123")


def test_a_torn_checkpoint_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fine_tune(ROWS, options(epochs=2), tmp_path, progress=stop_after(5))
    (whole,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    for number, torn in enumerate(("trainer_state.json", "model.safetensors", "optimizer.pt"), start=4):
        later = shutil.copytree(whole, whole.with_name(f"checkpoint-{number}"))
        content = (later / torn).read_bytes()
        (later / torn).write_bytes(content[: len(content) // 2])
    seen: list[int] = []
    fine_tune(ROWS, options(epochs=2), tmp_path, progress=lambda now: seen.append(now.updates))
    assert seen[0] == 4


def test_another_training_does_not_go_on_from_it(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fine_tune(ROWS, options(epochs=2), tmp_path, progress=stop_after(5))
    for rows, other in ((ROWS, options(epochs=2, seed=1)), (ROWS[1:], options(epochs=2))):
        with pytest.raises(RunError, match="holds an interrupted training with other options or data"):
            fine_tune(rows, other, tmp_path)


def test_two_trainings_never_write_into_one_folder(tmp_path: Path) -> None:
    """The second is refused while the first is under way, and nothing of the first is touched."""
    seen = []

    def another(now: SFTProgress) -> None:
        if now.updates == 2:
            with pytest.raises(RunError, match="another process is training into this folder"):
                fine_tune(ROWS[:8], options(batch=4, seed=1), tmp_path / "model")
            seen.append(now.updates)

    made = fine_tune(ROWS[:8], options(batch=4), tmp_path / "model", progress=another)
    assert seen == [2]
    assert replace(made, seconds=0) == replace(
        fine_tune(ROWS[:8], options(batch=4), tmp_path / "alone"), seconds=0
    )
    assert same(tmp_path / "model", tmp_path / "alone")


def test_a_finished_training_is_not_repeated(made: tuple[Path, FineTuned]) -> None:
    folder, record = made
    seen: list[SFTProgress] = []
    again = learn(
        map(lesson, KEPT), options(epochs=3), folder, validation=map(lesson, CHECKS), progress=seen.append
    )
    assert (again, seen) == (record, [])


def test_the_same_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    write_run(tmp_path / "run", KEPT[:8])
    fields = {"student": "embedded/student", "data": "run", "folder": "model", "batch": 4, "epochs": 8}
    (tmp_path / "sft.yaml").write_text(json.dumps(fields | {"micro_batch": 4, "keep_epochs": False}))
    command = [str(Path(sys.executable).with_name("tessy")), "sft"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("model/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    told = read_losses(tmp_path / "model")[0]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "model: 1.2 M parameters, all trained, 16 updates" in done.stdout
    rows = read_losses(tmp_path / "model")
    assert rows[0] == told
    assert [row.update for row in rows] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert (tmp_path / "model" / "sft.yaml").read_text().startswith("student: embedded/student\n")


# --- options ------------------------------------------------------------------------------------------------------


def test_lora_changes_linear_layers_only(tmp_path: Path) -> None:
    made = fine_tune(ROWS, options(lora=LoraOptions(r=4, alpha=64), epochs=2, keep_epochs=False), tmp_path)
    before, after = weights(Path(STUDENT)), weights(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj." in name}
    assert 0 < made.trained_parameters < made.parameters / 4
    assert not (tmp_path / "epochs").exists()
    assert "LoRA on all linear layers but the head, r 4, alpha 64" in (tmp_path / "README.md").read_text()
    # The merged model is the one that was trained: its loss on the data is below the student's.
    again = fine_tune(ROWS, options(student=str(tmp_path), batch=24), tmp_path / "again")
    assert again.epochs[0].loss < made.epochs[0].loss


def test_what_is_too_long_is_counted(tmp_path: Path) -> None:
    lengths = sorted(len(row.ids) for row in ROWS)
    longest = lengths[len(lengths) // 2]
    over = sum(length > longest for length in lengths)
    out = fine_tune(ROWS, options(max_length=longest), tmp_path / "out")
    assert (out.train.learned, out.train.too_long, out.train.truncated) == (24 - over, over, 0)
    cut = fine_tune(ROWS, options(max_length=longest, too_long="truncate"), tmp_path / "cut")
    assert (cut.train.learned, cut.train.too_long, cut.train.truncated) == (24, 0, over)
    assert cut.train.tokens == sum(min(length, longest) for length in lengths)
    with pytest.raises(DataError, match="of 24 responses all are longer than 5 tokens"):
        fine_tune(ROWS, options(max_length=5, too_long="truncate"), tmp_path / "none")


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    full, half = (
        fine_tune(ROWS, options(dtype=dtype), tmp_path / dtype).epochs[0].loss
        for dtype in ("float32", "bfloat16")
    )
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


def test_updates_end_it_early(tmp_path: Path) -> None:
    made = fine_tune(ROWS, options(epochs=9, updates=4, schedule="constant", warm_up=0.0), tmp_path)
    assert made.updates == 4
    assert [row.learning_rate for row in read_losses(tmp_path)] == [1e-3] * len(read_losses(tmp_path))
    assert math.ceil(made.epochs[-1].epoch) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "batch: expected at least 1, found 0"),
        ({"batch": 9, "micro_batch": 4}, "batch: expected a multiple of micro_batch (4), found 9"),
        ({"schedule": "wild"}, "schedule: expected one of cosine, linear, constant, found 'wild'"),
        ({"learning_rate": 5.0}, "learning_rate: expected a number between 0 and 1, found 5.0"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        options(**given)
    assert str(error.value) == message


def test_no_such_student(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the model"):
        fine_tune(ROWS, options(student=str(tmp_path / "none")), tmp_path / "model")
