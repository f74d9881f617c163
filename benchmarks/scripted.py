"""What the benchmarks share: scripted servers in processes of their own, questions, and a run between the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, TypeVar

from tessy.programs.config import RunConfig

T = TypeVar("T")


@contextmanager
def server(*options: str) -> Iterator[str]:
    """A scripted server that answers at once, in a process of its own; its base URL."""
    with Popen([sys.executable, "-m", "tessy.adapters.fakes", *options], stdout=PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def pair(clauses: int, *options: str) -> Iterator[tuple[str, str]]:
    """The base URLs of a student and a teacher whose thinking has so many clauses."""
    length = ("--clauses", str(clauses), "--most-clauses", str(clauses), *options)
    with ExitStack() as stack:
        student = stack.enter_context(server(*length))
        teacher = ("--vocabulary", "pairs", "--voice", "teacher", "--salt", "1")
        yield student, stack.enter_context(server(*length, *teacher))


def write_questions(folder: Path, count: int) -> None:
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for n in range(count):
            file.write(f'{{"question": "What is {n} + {n}? Think step by step.", "gold": {2 * n}}}\n')


def run_config(folder: Path, urls: tuple[str, str], chunks: tuple[int, int], **fields: Any) -> RunConfig:
    """A run over the questions in `folder`."""
    speakers = {
        name: {
            "model": "scripted",
            "predictor": "fake",
            "base_url": url,
            "tokenizer": tokenizer,
            "format": family,
            "chunk": chunk,
        }
        for name, url, tokenizer, family, chunk in (
            ("student", urls[0], "fake/bytes", "qwen3", chunks[0]),
            ("teacher", urls[1], "fake/pairs", "deepseek_r1", chunks[1]),
        )
    }
    places = {"questions": str(folder / "questions.jsonl"), "run_dir": str(folder / "run")}
    return RunConfig.model_validate(speakers | places | fields)


def in_a_process_of_its_own(work: Any, config: RunConfig) -> Any:
    """`work(config)` in a fresh process, so that nothing done before weighs on what is measured."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, config).result()
