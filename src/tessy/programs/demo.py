"""The main job on the embedded pair: hard questions in, training data out, and who is right how often.

Synthesizes with the ordinary run on an ordinary run directory; beside it each model answers the same questions alone,
with the same code and a boundary predictor that never sees a boundary. Every figure is measured in that run.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tessy.adapters.export import write_export
from tessy.adapters.store import read_trajectories
from tessy.core.cooperate import cooperate
from tessy.core.dialogue import Writer
from tessy.embedded.world import HARD, Problem, check, problems
from tessy.errors import RunError
from tessy.programs.config import RunConfig, validate
from tessy.programs.progress import Progress, Summary
from tessy.programs.run import synthesize
from tessy.programs.speakers import participants
from tessy.protocols import Mark
from tessy.questions import Message
from tessy.trajectory import Speaker, Trajectory

ALONE_CHUNK = 512
"""Tokens asked for at a time where there is no boundary to find."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made and measured."""

    summary: Summary
    example: Trajectory
    right: Mapping[str, int]
    """Right answers of "student alone", "teacher alone" and "tessy"."""
    asked: int
    data: Path
    """The exported data set."""


def demo_config(folder: Path, *, chunks: tuple[int, int] = (5, 10), **changes: Any) -> RunConfig:
    """The run of the demonstration: the embedded pair on `folder/questions.jsonl`."""
    student, teacher = (
        {
            "model": f"embedded/{speaker}",
            "format": format,
            "predictor": f"embedded/{speaker}_predictor",
            "chunk": chunk,
        }
        for speaker, format, chunk in zip(Speaker, ("qwen3", "openai_gptoss"), chunks, strict=True)
    )
    data: dict[str, Any] = {
        "questions": str(folder / "questions.jsonl"),
        "run_dir": str(folder / "run"),
        "student": student,
        "teacher": teacher,
        "limits": {"thinking_tokens": 1000, "context_tokens": 2000},
    }
    return validate(data | changes, "demo")


def write_questions(folder: Path, n: int, seed: int = 0) -> list[Problem]:
    """Write `n` hard problems of the test split, with their answers as metadata, to `folder/questions.jsonl`."""
    hard = problems(HARD, "test", n, seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = (orjson.dumps({"question": problem.question, "answer": problem.answer}) for problem in hard)
    (folder / "questions.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return hard


async def demonstrate(folder: Path, n: int = 40, progress: Progress | None = None) -> Demo:
    """Synthesize `n` hard questions with the embedded pair into `folder`, and compare.

    Raises:
        TessyError: what `synthesize` raises.
    """
    hard = write_questions(folder, n)
    config = demo_config(folder)
    if (Path(config.run_dir) / "config.yaml").exists():  # nothing but an earlier demonstration
        shutil.rmtree(config.run_dir)
    summary = await synthesize(config, progress=progress)
    kept = list(read_trajectories(config.run_dir))
    by_question = {problem.question: problem for problem in hard}
    right = await _alone(config, hard)
    right["tessy"] = sum(check(by_question[row.question.text], row.answer.text) for row in kept if row.answer)
    data = folder / "train.jsonl"
    write_export(kept, data)
    if not kept:
        raise RunError(f"the demonstration kept nothing: {summary.commonest_error or summary.failures}")
    return Demo(summary, kept[0], right, n, data)


async def _alone(config: RunConfig, asked: Sequence[Problem]) -> dict[str, int]:
    """How many problems each model solves by itself."""

    async def never(context: str, draft: str) -> Sequence[Mark]:
        return ()

    async with participants(config) as speakers:

        async def solves(speaker: Speaker, problem: Problem) -> bool:
            participant = speakers[speaker]
            writer = Writer(
                participant.engine.completer(problem.question, seed=config.seed, deadline=None),
                never,
                participant.tokenizer,
                participant.thinking,
                participant.thinking.prompt([Message("user", problem.question)]),
                ALONE_CHUNK,
            )
            both = dict.fromkeys(Speaker, writer)
            response = await cooperate(both, config.limits.limits(), opener=speaker, answerer=speaker)
            return response.answer is not None and check(problem, response.answer.text)

        async def solved(speaker: Speaker) -> int:
            return sum(await asyncio.gather(*(solves(speaker, problem) for problem in asked)))

        counts = await asyncio.gather(*(solved(speaker) for speaker in Speaker))
    return {f"{speaker} alone": count for speaker, count in zip(Speaker, counts, strict=True)}
