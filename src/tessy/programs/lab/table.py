"""An experiment as tables, one for each group of arms (paper, Table 1), as text and as JSON.

A cell is a mean over seeds with its 95 % interval (Student's t over the seeds). The last column compares with the
group's first arm on the questions of the set that is trained on, paired by question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tessy.core.intervals import Mean
from tessy.programs.lab.config import LabConfig
from tessy.programs.lab.results import MODELS, Results, Score

COLUMNS = ("", "rows", "right", "in-domain", "others", "unfinished", "tokens", "− first")
"""Data: rows, and how many of them are right. Students: right answers on the set that is trained on and on all others,
responses that did not end, tokens of a thinking;
and what they have right more than the first arm of the group."""


def tables(results: Results) -> dict[str, list[list[str]]]:
    """The rows of each group's table, as text; the models as they are stand in the first."""
    found: dict[str, list[list[str]]] = {}
    for group, names in groups(results.lab):
        rows = [*MODELS, *names] if not found else names
        made = (_row(results, name, names[0]) for name in rows)
        found[group] = [row for row in made if row]
    return found


def groups(lab: LabConfig) -> Iterator[tuple[str, list[str]]]:
    """The arms of each group, in the order of the configuration."""
    for group in dict.fromkeys(group for arm in lab.arms.values() for group in arm.groups):
        yield group, [name for name, arm in lab.arms.items() if group in arm.groups]


def figures(results: Results) -> dict[str, Any]:
    """Everything that the tables and pictures show, and each seed's own figures."""
    lab = results.lab
    content: dict[str, Any] = {"config": lab.model_dump(mode="json"), "arms": {}}
    for name in (*MODELS, *lab.arms):
        found = results.measured(name)
        if found is None:
            continue
        data, epochs = (None, {}) if name in MODELS else (results.data_of(name), results.by_epoch(name))
        content["arms"][name] = {
            "groups": [] if name in MODELS else lab.arms[name].groups,
            "data": data and asdict(data),
            "epochs": {str(epoch): asdict(each) for epoch, each in epochs.items()},
            "last": asdict(found),
            "against": _against(results, name),
        }
    return content


def _against(results: Results, name: str) -> dict[str, Any]:
    """How an arm compares with the first arm of each of its groups, by that arm's name."""
    firsts = dict.fromkeys(names[0] for _, names in groups(results.lab) if name in names[1:])
    return {first: asdict(found) for first in firsts if (found := results.compared(first, name))}


def _row(results: Results, name: str, first: str) -> list[str]:
    found = results.measured(name)
    if found is None:
        return []
    data = None if name in MODELS else results.data_of(name)
    against = None if name in (*MODELS, first) else results.compared(first, name)
    return [
        f"{name} as it is" if name in MODELS else name,
        f"{data.rows:,}" if data else "",
        f"{data.right.value:.0%}" if data and data.right else "",
        _cell(found.sets[results.lab.in_domain]),
        _cell(found.others) if found.others else "",
        f"{found.unfinished:.0%}",
        f"{found.thinking_tokens:,.0f}",
        _difference(against) if against else "",
    ]


def _cell(score: Score) -> str:
    shown = f"{100 * score.accuracy.value:.1f}"
    half = 100 * (score.accuracy.high - score.accuracy.value)
    return f"{shown} ± {half:.1f}" if half == half else shown  # NaN: one seed tells no interval


def _difference(mean: Mean) -> str:
    return f"{100 * mean.value:+.1f} ± {100 * (mean.high - mean.value):.1f}"
