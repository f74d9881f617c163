"""What a person sees: the live state of a run, its end, and a trajectory in two colours.

Reads progress, summaries and trajectories; decides nothing. Model text is escaped: control characters in it do not
reach the terminal, and markup in it is not markup.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tessy.programs.check import Finding
from tessy.programs.demo import Demo
from tessy.programs.progress import Progress, Summary
from tessy.trajectory import Choice, Speaker, Trajectory

STYLES = {Speaker.STUDENT: "bold dark_orange", Speaker.TEACHER: "deep_sky_blue1"}
"""Orange and blue: told apart with any of the common colour deficiencies; bold without colour at all."""

RATE_WINDOW = 30.0
"""Seconds over which tokens per second are averaged."""


class Rates:
    """Kept tokens per second by speaker, and the time left, over a sliding window."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seen: deque[tuple[float, Counter[Speaker], int]] = deque()

    def update(self) -> tuple[dict[Speaker, float], float | None]:
        """Look now: tokens per second of each speaker, and seconds left (None: not to be told yet)."""
        progress, now = self._progress, time.monotonic()
        self._seen.append((now, Counter(progress.tokens), progress.kept + progress.failed))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_WINDOW:
            self._seen.popleft()
        then, tokens, _ = self._seen[0]
        seconds = max(now - then, 1e-9)
        rates = {speaker: (progress.tokens[speaker] - tokens[speaker]) / seconds for speaker in Speaker}
        done = progress.kept + progress.failed - progress.kept_before
        running = now - progress.started
        left = progress.owed * running / done if done > 0 else None
        return rates, left


@asynccontextmanager
async def beside(show: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let a display that never ends run beside the block."""
    task = asyncio.create_task(show)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def status_line(tell: Callable[[], str], console: Console) -> None:
    """Keep one line of a terminal at what `tell` says now."""
    with Status("", console=console) as status:
        while True:
            status.update(tell())
            await asyncio.sleep(0.5)


def shown(progress: Progress, console: Console) -> AbstractAsyncContextManager[None]:
    """Show the run's progress while the block runs: live in a terminal, a plain line now and then elsewhere."""
    return beside((_live if console.is_terminal else _lines)(progress, console))


async def _live(progress: Progress, console: Console) -> None:
    rates = Rates(progress)
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            live.update(_panel(progress, *rates.update()))
            await asyncio.sleep(0.5)


async def _lines(progress: Progress, console: Console) -> None:
    rates = Rates(progress)
    pause = 2.0
    while True:
        speeds, left = rates.update()
        if progress.engines:
            console.print(_line(progress, speeds, left), markup=False, highlight=False, soft_wrap=True)
        await asyncio.sleep(pause)
        pause = min(30.0, pause * 1.5)


def _line(progress: Progress, speeds: dict[Speaker, float], left: float | None) -> str:
    speakers = ", ".join(f"{speaker} {speeds[speaker]:.0f} tok/s" for speaker in Speaker)
    return (
        f"{progress.kept} kept, {progress.in_flight} in flight, {progress.failed} failed of {progress.asked}; "
        f"{speakers}; student {_share(progress.tokens):.0%}; {progress.retries} retries; {_eta(left)} left"
    )


def _panel(progress: Progress, speeds: dict[Speaker, float], left: float | None) -> Panel:
    counts = Text.assemble(
        (f"{progress.kept} kept", "green"),
        f"  {progress.in_flight} in flight  ",
        (f"{progress.failed} failed", "red" if progress.failed else ""),
        f"  of {progress.asked}   {progress.retries} retries   {_eta(left)} left",
    )
    table = Table.grid(padding=(0, 2))
    for speaker in Speaker:
        stats = progress.engines.get(speaker)
        share = _share(progress.tokens, speaker)
        table.add_row(
            Text(speaker, STYLES[speaker]),
            f"{speeds[speaker]:,.0f} kept tok/s",
            f"{share:.0%} of tokens",
            f"{stats.in_flight} of {stats.limit} requests" if stats and stats.limit else "",
        )
    bar = Table.grid(expand=True)  # by itself a bar ends without a line break, and swallows what follows
    bar.add_row(ProgressBar(total=max(progress.asked, 1), completed=progress.kept + progress.failed))
    return Panel(Group(counts, bar, table), title="tessy synthesize", border_style="dim")


def _share(tokens: Counter[Speaker], speaker: Speaker = Speaker.STUDENT) -> float:
    return tokens[speaker] / max(1, tokens.total())


def _eta(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """The findings of a check, a line each."""
    for finding in findings:
        mark, style = (
            ("ok", "green") if finding.ok else ("FAIL", "red") if finding.fatal else ("warn", "yellow")
        )
        text = Text.assemble((f"{mark:5}", style), (f"{finding.subject}: ", "bold"), clean(finding.message))
        console.print(text, soft_wrap=True)


def print_summary(summary: Summary, run_dir: str, console: Console) -> None:
    """The end of a run: every trajectory accounted for, why, at what cost, and how to go on."""
    console.print(
        f"asked {summary.asked} = kept {summary.kept} + failed {summary.failed} + owed {summary.owed}"
        + (f"   ({summary.duplicates} duplicate questions left out)" if summary.duplicates else ""),
        highlight=False,
    )
    totals = summary.totals
    for name, reasons in (("kept", totals.stops), ("failed", summary.failures)):
        if reasons:
            listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            console.print(f"{name}: {listed}", highlight=False, markup=False)
    total = sum(totals.tokens.values())
    if total:
        shares = ", ".join(f"{name} {count:,} ({count / total:.1%})" for name, count in totals.tokens.items())
        waste = (sum(totals.drafted.values()) - total) / total
        console.print(
            f"kept tokens: {shares}; {totals.switches:,} switches; generated and not kept: {waste:.0%}",
            highlight=False,
            soft_wrap=True,
        )
    if chosen := totals.choices:
        graded = chosen["candidates"] - chosen["failed"]
        console.print(
            f"candidates: {chosen['candidates']:,}, of which {chosen['failed']:,} failed; "
            f"{chosen['unparsable']:,} of {graded:,} grades could not be read; "
            f"{chosen['tied']:,} of {chosen['rows']:,} rows were chosen among equals",
            highlight=False,
            soft_wrap=True,
        )
    if summary.requests:
        console.print(
            f"{summary.kept_tokens_per_second:,.0f} kept tok/s for {_eta(summary.seconds)}; "
            f"{sum(summary.requests.values()):,} requests, {summary.retries} retries",
            highlight=False,
            soft_wrap=True,
        )
    for name, error in (("first error", summary.first_error), ("commonest", summary.commonest_error)):
        if error and not (name == "commonest" and error == summary.first_error):
            console.print(Text.assemble((f"{name}: ", "red"), clean(error)), soft_wrap=True)
    if summary.owed:
        why = f" ({summary.stopped_because})" if summary.stopped_because else ""
        console.print(
            f"stopped early{why}; nothing is lost. Run the same command again to go on with {run_dir}",
            highlight=False,
            markup=False,
        )


def print_trajectory(trajectory: Trajectory, console: Console) -> None:
    """One trajectory: the question, the thinking coloured by speaker, the answer, and its counts."""
    console.rule(Text(f"question {trajectory.id}"), align="left")
    console.print(Text(clean(trajectory.question.text)))
    legend = Text.assemble(*((f" {speaker} ", f"reverse {STYLES[speaker]}") for speaker in Speaker))
    console.rule(Text.assemble("thinking  ", legend), align="left")
    console.print(Text.assemble(*((clean(span.text), STYLES[span.speaker]) for span in trajectory.spans)))
    if answer := trajectory.answer:
        console.rule(Text(f"answer by the {answer.speaker}"), align="left")
        console.print(Text(clean(answer.text.strip()), STYLES[answer.speaker]))
    console.rule(style="dim")
    console.print(_counts(trajectory))
    if choice := trajectory.choice:
        console.print(_chosen(choice), highlight=False, markup=False, soft_wrap=True)


def print_demo(demo: Demo, console: Console) -> None:
    """One trajectory, the run in figures, who is right how often, and where the data are."""
    print_trajectory(demo.example, console)
    console.rule(f"{demo.asked} hard questions", align="left")
    print_summary(demo.summary, "", console)
    table = Table(box=None, pad_edge=False)
    table.add_column("answers right")
    table.add_column("", justify="right")
    for name, count in demo.right.items():
        table.add_row(name, f"{count} of {demo.asked}", style="bold" if name == "tessy" else "")
    console.print(table)
    console.print(
        f"training data: {demo.data}\n"
        f'  datasets.load_dataset("json", data_files="{demo.data}", split="train")[0]["dialogs"]',
        markup=False,
        soft_wrap=True,
    )


def _counts(trajectory: Trajectory) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "tokens", "share", "spans", "requests", "generated"):
        table.add_column(name, justify="right" if name else "left")
    for speaker in Speaker:
        tokens = trajectory.tokens(speaker)
        table.add_row(
            Text(speaker, STYLES[speaker]),
            f"{tokens:,}",
            f"{tokens / max(1, trajectory.tokens()):.1%}",
            str(sum(span.speaker is speaker for span in trajectory.spans)),
            str(trajectory.drafts(speaker)),
            f"{trajectory.drafted(speaker):,}",
        )
    ended = f" by the {trajectory.ended_by}" if trajectory.ended_by else ""
    table.caption = f"{trajectory.switches} switches; {trajectory.stop}{ended}; {trajectory.seconds:.1f} s"
    return table


def _chosen(choice: Choice) -> str:
    """Which candidate it is, of how many equals, and how all of them were graded."""
    scores = ", ".join(
        f"{number}: {'none' if score is None else format(score, 'g')}"
        for number, score in enumerate(choice.scores)
    )
    equals = f", the first of {choice.tied + 1} equals" if choice.tied else ""
    return (
        f"   candidate {choice.taken} taken{equals}; scores {scores}; {choice.failed} candidates failed, "
        f"{choice.unparsable} grades could not be read"
    )


def clean(text: str) -> str:
    """Text for a terminal: no escape sequences, no direction overrides; line breaks and tabs stay."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co") else "\ufffd"
        for char in text.replace("\r\n", "\n")
    )
