"""What a person sees of evaluations: where one is, its figures in a table, and what differs between several.

Reads progress and figures; decides nothing. Names are escaped as all foreign text is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tessy.core.intervals import Mean
from tessy.display import beside, clean, status_line
from tessy.programs.evaluation import Comparison, Evaluation, Figures, Verdict
from tessy.programs.progress import Progress, Summary

ALL = "all"


def shown(progress: Progress, console: Console) -> AbstractAsyncContextManager[None]:
    """Show how far an evaluation is while the block runs: live in a terminal, elsewhere a line every half minute."""
    live = console.is_terminal
    return beside(status_line(lambda: _line(progress), console) if live else _lines(progress, console))


async def _lines(progress: Progress, console: Console) -> None:
    while True:
        await asyncio.sleep(30)
        console.print(_line(progress), markup=False, highlight=False, soft_wrap=True)


def _line(progress: Progress) -> str:
    if not progress.engines:
        return "selecting questions, loading the model"
    seconds = max(time.monotonic() - progress.started, 1e-9)
    return (
        f"{progress.kept:,} of {progress.asked:,} responses, {progress.in_flight} in flight, "
        f"{progress.failed} failed; {progress.tokens.total() / seconds:,.0f} tok/s, {progress.retries} retries"
    )


def print_owed(summary: Summary, folder: str, console: Console) -> None:
    """Why there are no figures yet."""
    missing = summary.failed + summary.owed
    why = f" ({summary.stopped_because})" if summary.stopped_because else ""
    console.print(
        f"{summary.kept:,} of {summary.asked:,} responses are there, {missing:,} are owed{why}; no figures before all "
        f"are. Nothing is lost: the same command goes on with {folder}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for name, error in (("first error", summary.first_error), ("commonest", summary.commonest_error)):
        if error and not (name == "commonest" and error == summary.first_error):
            console.print(Text.assemble((f"{name}: ", "red"), clean(error)), soft_wrap=True)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """The figures of one evaluation, set by set, and how its responses ended."""
    console.print(evaluation_table(evaluation))
    stops = ", ".join(f"{name} {count:,}" for name, count in evaluation.overall.stops.items())
    verdicts = ", ".join(f"{name} {count:,}" for name, count in evaluation.overall.verdicts.items())
    for line in (f"answers: {verdicts}", f"ended: {stops}"):
        console.print(Text(clean(line.replace("_", " "))), soft_wrap=True)


def print_speed(summary: Summary, console: Console) -> None:
    """How fast the responses of this process came."""
    requests = sum(summary.requests.values())
    console.print(
        f"{summary.kept_tokens_per_second:,.0f} tok/s for {summary.seconds:,.0f} s; {requests:,} requests, "
        f"{summary.retries:,} retries",
        highlight=False,
    )


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row for each set, and one for all questions.

    `unread`: complete responses that state no answer, or one that could not be compared. Thinking and answer in tokens.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("set", no_wrap=True)
    for column in ("questions", "pass@1", "95 %", "unfinished", "unread", "thinking", "answer"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = dict(evaluation.sets)
    if len(rows) > 1:
        rows[ALL] = evaluation.overall
    for part, figures in rows.items():
        table.add_row(Text(clean(part)), *_cells(figures), style="bold" if part == ALL else "")
    return table


def comparison_table(comparisons: Mapping[str, Comparison]) -> Table:
    """What evaluations have more than the first, in points, paired by question."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "set"):
        table.add_column(column, overflow="fold")
    for column in ("questions", "first", "this", "difference", "95 %"):
        table.add_column(column, justify="right")
    for name, comparison in comparisons.items():
        rows = dict(comparison.sets)
        if len(rows) != 1:
            rows[ALL] = comparison.overall
        for place, (part, pair) in enumerate(rows.items()):
            table.add_row(
                Text(clean(name) if place == 0 else ""),
                Text(clean(part)),
                f"{pair.questions:,}" + (f" (+{pair.in_one_only:,} in one only)" if pair.in_one_only else ""),
                f"{pair.first:.1%}",
                f"{pair.second:.1%}",
                f"{100 * pair.difference.value:+.1f}",
                _points(pair.difference),
                style="bold" if part == ALL else "",
            )
    return table


def _cells(figures: Figures) -> list[str]:
    mean = figures.pass_at_1
    return [
        f"{figures.questions:,} × {len(figures.by_run)}",
        f"{mean.value:.1%}",
        f"{100 * mean.low:.1f} to {100 * mean.high:.1f}",
        f"{figures.unfinished:.1%}",
        f"{figures.share(Verdict.NOT_FOUND, Verdict.NOT_JUDGED):.1%}",
        f"{figures.thinking_tokens:,.0f}",
        "" if math.isnan(figures.answer_tokens) else f"{figures.answer_tokens:,.0f}",
    ]


def _points(difference: Mean) -> str:
    if math.isnan(difference.low):
        return "not to be told of one question"
    return f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
