"""Make the embedded pair: vocabularies, student, teacher, their boundary predictors, and the figures of all four.

    python recipes/embedded/train.py --out src/tessy/embedded

Two processes with one thread each. The same seed gives the same models on the same
machine. The teacher grows out of a copy of the student, taken when that had learned to copy and to add: it is deeper,
has its own vocabulary, and unlearns the student's habit. Writes a folder for each model to `--out`, and
`figures.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import figures
import predictors
import speakers
import torch
import vocabularies
from speakers import Course
from vocabularies import Dialect

from tessy.embedded.voices import Voice, respond
from tessy.embedded.world import EASY, HARD, problems

DIALECTS = {Voice.STUDENT: vocabularies.STUDENT, Voice.TEACHER: vocabularies.TEACHER}
PREDICTOR_STEPS = 200
_CORPUS_PROBLEMS = 6000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def corpus(voice: Voice, seed: int) -> Iterator[str]:
    """Plain text for a vocabulary: words of prompts and responses, mostly in the voice that it is for."""
    rng = random.Random(seed)
    dialect = DIALECTS[voice]
    for _ in range(_CORPUS_PROBLEMS):
        problem = speakers.any_problem(rng)
        yield f"user\n{problem.question}"
        yield dialect.preamble
        yield from ("assistant", "analysis", "final")
        response = respond(problem, rng, (voice, voice, voice, *Voice), (Voice.TEACHER,))
        yield f"\n{response.thinking}\n"
        yield f"\n\n{dialect.answer.format(response.answer)}"


def make_vocabulary(voice: Voice, out: Path, seed: int) -> None:
    """The tokenizer of a speaker, and of its predictor."""
    dialect: Dialect = DIALECTS[voice]
    vocabularies.save(dialect, vocabularies.learn(dialect, corpus(voice, seed)), out / voice)
    predictor = out / f"{voice}_predictor"
    predictor.mkdir(exist_ok=True)
    for file in _TOKENIZER_FILES:
        shutil.copy(out / voice / file, predictor / file)


def courses(out: Path, copy: Path, seed: int) -> dict[str, tuple[Course, ...]]:
    """The stretches of each speaker's training; later ones have more of the easy families."""
    student, teacher = out / "student", out / "teacher"
    return {
        "student": (
            Course(2888, hard=0.6, fall=0.25, seed=seed, easing=600, copy_at=1800, copy_to=copy),
            Course(1500, hard=0.3, fall=0.5, seed=seed + 2, begin=student),
            Course(1600, hard=0.25, fall=0.5, seed=seed + 4, begin=student),
            Course(1500, hard=0.25, fall=0.6, seed=seed + 6, begin=student),
            Course(1400, hard=0.2, fall=0.6, seed=seed + 8, begin=student),
        ),
        "teacher": (
            Course(1200, hard=0.6, fall=0.01, seed=seed + 1, begin=copy),
            Course(1200, hard=0.5, fall=0.5, seed=seed + 3, begin=teacher),
            Course(1500, hard=0.5, fall=0.5, seed=seed + 5, begin=teacher),
            Course(1300, hard=0.4, fall=0.6, seed=seed + 7, begin=teacher),
        ),
    }


def make_speaker(name: str, out: Path, stretches: Sequence[Course]) -> None:
    """Take a speaker through some courses."""
    _settle()
    speaker = speakers.speakers(vocabularies.STUDENT, vocabularies.TEACHER)[name]
    for course in stretches:
        speakers.train(speaker, out / name, course, _log)


def make_all(out: Path, seed: int) -> None:
    """All four. The teacher begins as soon as the student's first course has left a copy to begin from."""
    for voice in DIALECTS:
        make_vocabulary(voice, out, seed)
    with (
        tempfile.TemporaryDirectory() as copy,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        planned = courses(out, Path(copy), seed)
        begun = pool.submit(make_speaker, "student", out, planned["student"][:1])
        making = [pool.submit(make_predictors, out, seed)]
        begun.result()
        making.append(pool.submit(make_speaker, "student", out, planned["student"][1:]))
        making.append(pool.submit(make_speaker, "teacher", out, planned["teacher"]))
        for made in making:
            made.result()


def make_predictors(out: Path, seed: int) -> None:
    """Both boundary predictors."""
    _settle()
    for voice in DIALECTS:
        predictors.train(voice, out / f"{voice}_predictor", PREDICTOR_STEPS, seed, _log)


def measure(out: Path, seed: int) -> dict[str, object]:
    """What the four can do, each alone."""
    held_out = [*problems(HARD, "test", 150, seed), *(p for f in EASY for p in problems(f, "test", 20, seed))]
    report: dict[str, object] = {}
    for voice, dialect in DIALECTS.items():
        report[voice] = figures.solved(dialect, out / voice, seed)
        report[f"{voice}_predictor"] = predictors.measure(voice, out / f"{voice}_predictor", held_out, seed)
    return report


def _settle() -> None:
    os.nice(1)
    torch.set_num_threads(1)


def _log(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Make all four, and measure them."""
    parser = argparse.ArgumentParser(description="Make the embedded pair.")
    parser.add_argument("--out", type=Path, required=True, help="where the four folders go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="only measure what lies there")
    arguments = parser.parse_args()
    started = time.monotonic()
    if not arguments.measure:
        make_all(arguments.out, arguments.seed)
        _log(f"made in {time.monotonic() - started:.0f} s")
    _settle()
    report = json.dumps({"seed": arguments.seed, **measure(arguments.out, arguments.seed)}, indent=2)
    _log(report)
    (Path(__file__).parent / "figures.json").write_text(report + "\n")


if __name__ == "__main__":
    main()
