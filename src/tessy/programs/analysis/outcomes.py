"""How responses end: who ends the thinking (Table 4), why they stop, and whether they are right (Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from tessy.core.measures import wilson
from tessy.programs.analysis import shapes
from tessy.programs.analysis.gather import NOBODY, Gathered
from tessy.programs.analysis.records import LeftOut, Part, Rows, Table
from tessy.programs.analysis.shapes import Band
from tessy.programs.analysis.style import GREY, INK, REASONS, SPEAKERS, colours, drawable, label_rows
from tessy.trajectory import Speaker

LIMITS = 50
"""Length limits at which accuracy is told."""


def ended_by(gathered: Sequence[Gathered]) -> Part | LeftOut:
    """Table 4: who ends the thinking."""
    name, title = "ended_by", "Who ends the thinking"
    told = [each for each in gathered if each.ended_by]
    if not told:
        return LeftOut(name, title, "no source tells who ended the thinking")
    enders = (*(speaker.value for speaker in Speaker), NOBODY)
    rows: Rows = tuple((each.name, *(each.ended_by[ender] for ender in enders)) for each in told)

    def draw(canvas: Canvas) -> None:
        tints = [*SPEAKERS.values(), GREY]
        bands = [
            Band(ender, tint, [each.ended_by[ender] / each.ended_by.total() for each in told])
            for ender, tint in zip(enders, tints, strict=True)
            if any(each.ended_by[ender] for each in told)
        ]
        shapes.stacked(canvas.subplots(), [each.name for each in told], bands)

    caption = "Kept trajectories by who ended the thinking; nobody: it was closed at its limit."
    table = Table(name, title, ("source", *enders), rows)
    return Part(name, title, caption, (table,), shapes.height(len(told)), draw)


def stops(gathered: Sequence[Gathered]) -> Part | LeftOut:
    """Why trajectories ended: the kept ones, and every attempt that failed."""
    name, title = "stops", "Why trajectories ended"
    told = [each for each in gathered if each.stops or each.failed]
    if not told:
        return LeftOut(name, title, "no source tells why its responses ended")
    found = {
        each.name: {("kept", reason): count for reason, count in each.stops.most_common()}
        | {("failed attempt", reason): count for reason, count in each.failed.most_common()}
        for each in told
    }
    rows = tuple(
        (source, outcome, reason, count)
        for source, reasons in found.items()
        for (outcome, reason), count in reasons.items()
    )
    every = sorted(
        {key for reasons in found.values() for key in reasons}, key=lambda key: (key[0] != "kept", key)
    )

    def draw(canvas: Canvas) -> None:
        totals = {source: sum(reasons.values()) for source, reasons in found.items()}
        bands = [
            Band(
                reason.replace("_", " ")
                if outcome == "kept"
                else drawable(f"failed: {reason}").replace("_", " "),
                REASONS[n % len(REASONS)],
                [reasons.get((outcome, reason), 0) / totals[source] for source, reasons in found.items()],
            )
            for n, (outcome, reason) in enumerate(every)
        ]
        shapes.stacked(canvas.subplots(), list(found), bands)

    caption = "Kept trajectories and failed attempts, by reason. One that was kept at a later attempt counts in both."
    table = Table(name, title, ("source", "outcome", "reason", "count"), rows)
    extra = 0.2 * ((len(every) - 1) // 4)
    return Part(name, title, caption, (table,), shapes.height(len(told)) + extra, draw)


def accuracy(gathered: Sequence[Gathered]) -> Part | LeftOut:
    """Fig. 6: the share of right answers, among responses of at most a given length."""
    name, title = "accuracy", "Right answers"
    told = {each.name: np.asarray(each.right) for each in gathered}
    judged = {source: values[values >= 0] for source, values in told.items() if (values >= 0).any()}
    if not judged:
        return LeftOut(name, title, "no source has gold answers by which answers can be judged")
    rows = tuple(
        (
            source,
            n := len(values),
            count := int(values.sum()),
            count / n,
            *wilson(count, n),
            len(told[source]) - n,
        )
        for source, values in judged.items()
    )
    longest = max(int(each.lengths().max()) for each in gathered if each.name in judged)
    curves = {each.name: _curve(each, longest) for each in gathered if each.name in judged}
    by_length = tuple(
        (source, int(limit), float(share))
        for source, curve in curves.items()
        if curve is not None
        for limit, share in curve
    )
    colour = colours([each.name for each in gathered])

    caption = (
        "Left: the share of right answers among the kept responses that can be judged, with its 95 % interval. "
        "Right: the same if longer responses counted as wrong."
    )
    columns = ("source", "judged", "right", "accuracy", "low", "high", "not_judged")
    tables = (
        Table(name, title, columns, rows),
        Table(
            f"{name}_by_length", f"{title} within a length limit", ("source", "tokens", "accuracy"), by_length
        ),
    )
    draw = partial(_draw_accuracy, rows, curves, colour)
    return Part(name, title, caption, tables, max(2.4, shapes.height(len(judged))), draw)


def _draw_accuracy(
    rows: Sequence[tuple[str, int, int, float, float, float, int]],
    curves: Mapping[str, NDArray[np.float64] | None],
    colour: Mapping[str, str],
    canvas: Canvas,
) -> None:
    """Shares left; right, where lengths are told, shares within a length."""
    told = any(curve is not None for curve in curves.values())
    left, right = canvas.subplots(1, 2, width_ratios=(1.15, 1)) if told else (canvas.subplots(), None)
    label_rows(left, list(curves))
    for row, (source, _, _, share, low, high, _) in enumerate(rows):
        left.barh(row, share, 0.55, color=colour[source], alpha=0.85)
        left.plot((low, high), (row, row), color=INK, linewidth=1.2, marker="|", markersize=7)
        left.text(1.03, row, f"{share:.1%}", va="center", fontsize=9, clip_on=False)
    left.set_xlim(0, 1)
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.set_xlabel("right answers")
    if right is None:
        return
    for source, curve in curves.items():
        if curve is not None:
            right.plot(curve[:, 0], curve[:, 1], color=colour[source], linewidth=1.8, label=drawable(source))
    right.set_ylim(0, 1)
    right.set_xlim(left=0)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.set_xlabel("right, within so many tokens")
    right.grid()


def _curve(gathered: Gathered, longest: int) -> NDArray[np.float64] | None:
    """Limits in tokens and the share of judged responses that are right within them; None without lengths."""
    right, lengths = np.asarray(gathered.right), gathered.lengths()
    judged = right >= 0
    if (lengths[judged] < 0).any():
        return None
    lengths, right = lengths[judged], right[judged]
    limits = np.linspace(0, longest, LIMITS + 1)
    within = (lengths[None, :] <= limits[:, None]) & (right[None, :] > 0)
    return np.column_stack((limits, within.mean(axis=1)))
