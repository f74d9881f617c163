"""An experiment as pictures: scores by arm and by epoch (paper, Fig. 11), losses (Fig. 15), the data (Fig. 6).

Shows what `results` reads; computes nothing. Imports matplotlib: nothing else in the lab imports it at its top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tessy.adapters.training.sft import Losses, read_losses
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
from tessy.programs.lab.results import Measured, Score, by_epoch, data_of, measured
from tessy.programs.lab.table import groups

_MOST_LINES = 8


def draw_lab(lab: LabConfig, to: Path) -> list[Path]:
    """Draw what is there of an experiment, each picture as SVG and PNG; the PNGs' paths.

    Raises:
        OSError: nothing can be written.
    """
    drawn: list[Path] = []

    def draw(name: str, height: float, how: Callable[[Figure], None]) -> None:
        drawn.append(draw_to(to, name, height, how)[1])

    student = measured(lab, "student")
    for group, names in groups(lab):
        found = [each for name in names if (each := measured(lab, name))]
        if found:
            draw(f"scores_{group}", 1.0 + 0.33 * len(found), partial(_scores, lab, found, student))
    first = next(iter(groups(lab)))[1]
    right = {name: data.right for name in first if (data := data_of(lab, name))}
    if right:
        draw("data", 0.9 + 0.3 * len(right), partial(_data, right))
    if lines := {name: points for name in first if (points := _by_epoch(lab, name))}:
        draw("epochs", 3.2, partial(_epochs, lab, lines, student))
    if losses := {name: rows for name in first if (rows := _losses(lab, name))}:
        draw("losses", 3.4, partial(_loss_curves, losses))
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
                mean = value.accuracy
                axes.barh(row, 100 * mean.value, height=0.62, color=_tint(lab, each.name))
                axes.errorbar(
                    [100 * mean.value],
                    [row],
                    xerr=[[100 * (mean.value - mean.low)], [100 * (mean.high - mean.value)]],
                    color=INK,
                    capsize=2.5,
                    linewidth=1,
                )
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


def _data(right: dict[str, float], figure: Figure) -> None:
    axes = figure.subplots()
    for row, share in enumerate(right.values()):
        axes.barh(row, 100 * share, height=0.62, color=PALE)
        axes.text(100 * share + 1, row, f"{share:.0%}", va="center")
    axes.set_title("right answers in the data, %")
    axes.set_xlim(0, 108)
    label_rows(axes, list(right))


def _by_epoch(lab: LabConfig, name: str) -> list[tuple[int, Measured]]:
    """The figures after each epoch, the last one included."""
    epochs, last = list(by_epoch(lab, name).items()), measured(lab, name)
    return [*epochs, (epochs[-1][0] + 1, last)] if epochs and last else []


def _epochs(
    lab: LabConfig, lines: dict[str, list[tuple[int, Measured]]], student: Measured | None, figure: Figure
) -> None:
    both: list[Axes] = list(figure.subplots(1, 2))
    sides: list[tuple[str, Callable[[Measured], Score | None]]] = [
        (lab.in_domain, lambda each: each.sets[lab.in_domain]),
        ("all other sets", lambda each: each.others),
    ]
    tints = colours(list(lines))
    for axes, (title, score) in zip(both, sides, strict=True):
        for n, (name, points) in enumerate(list(lines.items())[:_MOST_LINES]):
            begin = [(0, student)] if student else []
            values = [(epoch, s) for epoch, each in [*begin, *points] if (s := score(each))]
            axes.plot(
                [epoch for epoch, _ in values],
                [100 * value.accuracy.value for _, value in values],
                marker=MARKERS[n % len(MARKERS)],
                markersize=4,
                color=tints[name],
                label=name,
                linewidth=1.3,
            )
        axes.set_title(f"right answers, %: {title}")
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


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
    tints = colours(list(losses))
    for name, rows in list(losses.items())[:_MOST_LINES]:
        left.plot([row.update for row in rows], [row.loss for row in rows], color=tints[name], label=name)
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
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    right.legend()
