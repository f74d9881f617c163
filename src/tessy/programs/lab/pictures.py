"""An experiment as pictures: scores by arm and by epoch (paper, Fig. 11), losses (Fig. 15), the data (Fig. 6).

Shows what `results` reads; computes nothing. Imports matplotlib: nothing else in the lab imports it at its top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tessy.adapters.training.sft import Losses, read_losses
from tessy.core.intervals import Mean
from tessy.programs.analysis.style import (
    GREY,
    INK,
    MARKERS,
    PALE,
    STUDENT,
    TEACHER,
    colours,
    draw_to,
    label_rows,
)
from tessy.programs.lab.config import LabConfig
from tessy.programs.lab.results import Measured, Results, Score
from tessy.programs.lab.table import groups

_STROKES = ("-", "--", ":")
"""Of lines that share a colour."""
_COLUMNS = 3
"""Of a legend: as many as have room for the longest names of arms beside one another."""


def draw_lab(results: Results, to: Path) -> list[Path]:
    """Draw what is there of an experiment, each picture as SVG and PNG; the PNGs' paths.

    Raises:
        OSError: nothing can be written.
    """
    lab, drawn = results.lab, list[Path]()

    def draw(name: str, height: float, how: Callable[[Figure], None]) -> None:
        drawn.append(draw_to(to, name, height, how)[1])

    student = results.measured("student")
    for group, names in groups(lab):
        found = [each for name in names if (each := results.measured(name))]
        if found:
            draw(f"scores_{group}", 1.0 + 0.33 * len(found), partial(_scores, lab, found, student))
    first = next(iter(groups(lab)))[1]
    right = {name: data.right for name in first if (data := results.data_of(name)) and data.right}
    if right:
        draw("data", 0.9 + 0.3 * len(right), partial(_data, right))
    lines = {name: points for name in first if (points := _by_epoch(results, name))}
    if lines:
        draw("epochs", _height(len(lines)), partial(_epochs, lab, lines, student))
    losses = {name: rows for name in first if (rows := _losses(lab, name))}
    if losses:
        draw("losses", _height(len(losses)), partial(_loss_curves, losses))
    return drawn


def _scores(lab: LabConfig, found: Sequence[Measured], student: Measured | None, figure: Figure) -> None:
    """In-domain left, the mean of the other sets right; the dashed line is the student as it is."""
    sides: list[tuple[str, Callable[[Measured], Score | None]]] = [
        (lab.in_domain, lambda each: each.sets[lab.in_domain]),
        ("all other sets", lambda each: each.others),
    ]
    both: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    for axes, (title, score) in zip(both, sides, strict=True):
        for row, each in enumerate(found):
            value = score(each)
            if value is not None:
                axes.barh(row, 100 * value.accuracy.value, height=0.62, color=_tint(lab, each.name))
                _interval(axes, row, value.accuracy)
        base = score(student) if student else None
        if base:
            axes.axvline(100 * base.accuracy.value, color=GREY, linestyle="--", linewidth=1)
        axes.set_title(f"right answers, %: {title}")
        axes.set_xlim(0, 100)
        label_rows(axes, [each.name for each in found])
        axes.grid(axis="x")


def _tint(lab: LabConfig, name: str) -> str:
    names = next((names for _, names in groups(lab) if name in names), [name])
    return colours(names)[name]


def _interval(axes: Axes, row: int, mean: Mean) -> None:
    """Where a bar's end lies with 95 % confidence, in percent."""
    sides = [[100 * (mean.value - mean.low)], [100 * (mean.high - mean.value)]]
    axes.errorbar([100 * mean.value], [row], xerr=sides, color=INK, capsize=2.5, linewidth=1)


def _data(right: dict[str, Mean], figure: Figure) -> None:
    axes = figure.subplots()
    for row, mean in enumerate(right.values()):
        axes.barh(row, 100 * mean.value, height=0.62, color=PALE)
        _interval(axes, row, mean)
        axes.text(100 * mean.high + 1.5, row, f"{mean.value:.0%}", va="center")
    axes.set_title("right answers in the data, %")
    axes.set_xlim(0, 108)
    label_rows(axes, list(right))


def lines_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the line of each arm is drawn: no two are the same, and few differ by their colour alone."""
    tints, used = colours(names), Counter[str]()
    found: dict[str, dict[str, Any]] = {}
    for n, name in enumerate(names):
        again = used[tints[name]]
        used[tints[name]] += 1
        found[name] = {
            "label": name,
            "color": tints[name],
            "linestyle": _STROKES[again % len(_STROKES)],
            "linewidth": 1.3,
            "marker": MARKERS[n % len(MARKERS)],
            "markersize": 4,
            "markerfacecolor": "white" if again else tints[name],
        }
    return found


def _height(lines: int) -> float:
    """Inches of a figure whose legend has so many lines."""
    return 2.7 + 0.2 * -(-lines // _COLUMNS)


def _by_epoch(results: Results, name: str) -> list[tuple[int, Measured]]:
    """The figures after each epoch, the last one included."""
    epochs, last = list(results.by_epoch(name).items()), results.measured(name)
    return [*epochs, (epochs[-1][0] + 1, last)] if epochs and last else []


def _epochs(
    lab: LabConfig, lines: dict[str, list[tuple[int, Measured]]], student: Measured | None, figure: Figure
) -> None:
    both: list[Axes] = list(figure.subplots(1, 2))
    sides: list[tuple[str, Callable[[Measured], Score | None]]] = [
        (lab.in_domain, lambda each: each.sets[lab.in_domain]),
        ("all other sets", lambda each: each.others),
    ]
    drawn = lines_of(list(lines))
    for axes, (title, score) in zip(both, sides, strict=True):
        for name, points in lines.items():
            begin = [(0, student)] if student else []
            values = [(epoch, s) for epoch, each in [*begin, *points] if (s := score(each))]
            axes.plot(
                [epoch for epoch, _ in values],
                [100 * value.accuracy.value for _, value in values],
                **drawn[name],
            )
        axes.set_title(f"right answers, %: {title}")
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=_COLUMNS)


def _losses(lab: LabConfig, name: str) -> list[Losses]:
    """The training losses of the first seed that is there."""
    for seed in lab.seeds:
        folder = lab.student_dir(name, seed) / "model"
        if (folder / "losses.jsonl").exists():
            return [row for row in read_losses(folder) if row.side == "train"]
    return []


def _loss_curves(losses: dict[str, list[Losses]], figure: Figure) -> None:
    """All learned tokens left; right the two parts of Eq. 2 of the first arm that has both."""
    left, right = figure.subplots(1, 2)
    drawn = lines_of(list(losses))
    for n, (name, rows) in enumerate(losses.items()):
        every = max(1, len(rows) // 6)
        marked = (n * every // len(losses), every)  # not all at the same updates
        left.plot([row.update for row in rows], [row.loss for row in rows], markevery=marked, **drawn[name])
    split = next(
        (name for name, rows in losses.items() if {"style", "capability"} <= rows[-1].kinds.keys()), ""
    )
    for kind, tint in (("style", STUDENT), ("capability", TEACHER)):
        points = [(row.update, row.kinds[kind]) for row in losses.get(split, []) if kind in row.kinds]
        right.plot([update for update, _ in points], [loss for _, loss in points], color=tint, label=kind)
    for axes, title in ((left, "loss, nats a token"), (right, f"its two kinds: {split}")):
        axes.set_title(title)
        axes.set_xlabel("update")
        axes.set_yscale("log")
        # The usual labels of such an axis are formulas, which our figures do not set.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=_COLUMNS)
    right.legend()
