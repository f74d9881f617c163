"""What a person sees of a predictor's build: where it is, and what each step came to.

Reads progress and results; decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from rich.console import Console

from tessy.adapters.training import Trained, TrainingProgress
from tessy.display import beside, clean, status_line
from tessy.display_predictor import evaluation_table
from tessy.programs.predictor.annotate import AnnotateProgress, AnnotateSummary
from tessy.programs.predictor.build import BuildProgress, Built
from tessy.programs.progress import Progress


def shown(progress: BuildProgress, console: Console) -> AbstractAsyncContextManager[None]:
    """Show where the build is while the block runs: live in a terminal, a plain line now and then elsewhere."""
    live = console.is_terminal
    return beside(status_line(lambda: _line(progress), console) if live else _lines(progress, console))


async def _lines(progress: BuildProgress, console: Console) -> None:
    """A line when a step begins, and every half minute."""
    told, when = "", 0.0
    while True:
        step = f"{progress.speaker} {progress.step}"
        if progress.step and (step != told or time.monotonic() - when > 30):
            console.print(_line(progress), markup=False, highlight=False, soft_wrap=True)
            told, when = step, time.monotonic()
        await asyncio.sleep(0.5)


def _line(progress: BuildProgress) -> str:
    if progress.step is None:
        return "starting"
    details = ""
    if progress.run:
        details = _run(progress.run)
    elif progress.annotation:
        details = _annotation(progress.annotation)
    elif progress.training:
        details = _training(progress.training)
    return f"{progress.speaker}, {progress.step}{': ' * bool(details)}{details}"


def _run(progress: Progress) -> str:
    return (
        f"{progress.kept:,} of {progress.asked:,} responses, {progress.in_flight} in flight, "
        f"{progress.failed} failed, {progress.tokens.total():,} tokens, {progress.retries} retries"
    )


def _annotation(progress: AnnotateProgress) -> str:
    return (
        f"{progress.annotated:,} of {progress.segments:,} segments, {progress.rejected.total():,} rejected, "
        f"{progress.in_flight} in flight, {progress.prompt_tokens:,} + {progress.completion_tokens:,} tokens, "
        f"{progress.retries} retries"
    )


def _training(progress: TrainingProgress) -> str:
    loss = f", loss {progress.loss:.4f}" if progress.loss is not None else ""
    epoch = progress.history[-1] if progress.history else None
    f1 = f", style F1 {epoch.f1:.4f} after epoch {epoch.number}" if epoch else ""
    return f"{progress.batches:,} of {progress.of:,} batches{loss}{f1}"


def print_annotation(name: str, summary: AnnotateSummary, console: Console) -> None:
    """Every segment accounted for, and the tokens that it cost."""
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in summary.rejected.items())
    console.print(
        f"{name}: {summary.segments:,} segments = {summary.annotated:,} annotated + "
        f"{sum(summary.rejected.values()):,} rejected{f' ({rejected})' if rejected else ''} + {summary.owed:,} owed; "
        f"{summary.prompt_tokens:,} + {summary.completion_tokens:,} tokens",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if summary.commonest_error:
        console.print(f"commonest error: {clean(summary.commonest_error)}", markup=False, soft_wrap=True)


def print_training(folder: Path, trained: Trained, console: Console) -> None:
    """How the kept epoch did on the validation side."""
    best = trained.best
    console.print(
        f"{folder}: {trained.parameters / 1e6:,.1f} M parameters, {trained.segments:,} segments of "
        f"{trained.responses:,} responses, {trained.style:.0%} of the tokens style; epoch {best.number} of "
        f"{len(trained.history)} kept: style F1 {best.f1:.4f}, token accuracy {best.accuracy:.4f}; "
        f"{trained.seconds:.0f} s",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def print_built(built: Built, console: Console) -> None:
    """All that a build came to, for one speaker."""
    console.rule(f"boundary predictor of the {built.speaker}", align="left")
    console.print(
        f"{built.collected.responses.kept:,} responses, {built.collected.responses.failed:,} failed",
        highlight=False,
    )
    print_annotation(built.speaker, built.collected.annotation, console)
    print_training(built.model, built.trained, console)
    console.print(evaluation_table(built.evaluation))
    console.print(
        f"in run.yaml, under {built.speaker}: predictor: {built.model}", markup=False, soft_wrap=True
    )
