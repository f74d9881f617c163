"""Tables of the simulation: one GPU node, 32 of them, and how near it comes to what was measured.

`node`, `chunks`, `processes`, `sensitivity` and `nodes` predict GPT-OSS-120B and Qwen3-8B on H100s, with the figures of
`hardware`. `published` shows modelled iterations beside published ones, `facts` the CPU servers of issue 8 beside the
model. `--against` predicts the runs of `alternation` from what `calibrate` measured, and fails if the limit or tessy is
off by more than 15 %.

    python benchmarks/simulate.py node chunks [--json FILE]
    python benchmarks/simulate.py --against runs/alternation.json --calibration runs/calibration.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware import CPU, FIGURES, Split, nodes, values
from simulated_facts import TOLERANCE, Line, Table, against, facts_table, misses, published_table
from simulated_ways import simulate
from simulated_world import Pair, Setup, Work

SPLITS = (
    Split(6, 1, 2),
    Split(3, 2, 2),
    Split(2, 2, 4),
    Split(1, 4, 4),
    Split(1, 2, 6),
    Split(2, 2, 3, readers=1),
    Split(2, 2, 4, bits=8),
    Split(2, 2, 3, readers=1, bits=8),
)
BEST = Split(2, 2, 4)
CONCURRENCY = 144
PROCESSES = 2
PREDICTORS = 2
APIS = 2
INTERVAL = 1
LOOKS = Pair(3, 5)
LONG = Work(
    "tessy",
    CONCURRENCY,
    (10_000, 16_000),
    Pair(5, 18),
    LOOKS,
    extra=0.5,
    prompt=300,
    answer=1000,
    warm=10,
    window=20,
)
"""What a trajectory of the paper is like: 14,600 tokens on average, 22 % of them the student's."""


def work(way: str, concurrency: int = CONCURRENCY, **changes: Any) -> Work:
    """`LONG` in some other way. Plain takes long to settle, and little time to simulate."""
    if way == "plain":
        changes = {"warm": 40.0, "window": 40.0} | changes
    return replace(LONG, way=way, concurrency=concurrency, **changes)


def rate(setup: Setup, each: Work) -> float:
    """Kept tokens per second."""
    return simulate(setup, each).figures["tok/s"]


def line(setup: Setup, each: Work, plain: float, limit: float) -> Line:
    """A row of a table, beside the rates of the two references."""
    figures = simulate(setup, each).figures
    return {
        "tok/s": round(figures["tok/s"]),
        "÷ plain": round(figures["tok/s"] / plain, 2),
        "÷ limit": round(figures["tok/s"] / limit, 2),
        "waste": f"{figures['waste']:.0%}",
        "requests/span": "–" if each.way == "plain" else round(figures["requests/span"], 2),
        "computed/token": round(figures["computed/token"], 1),
        **{name: f"{figures[name]:.0%}" for name in ("student", "teacher", "predictor", "process", "api")},
    }


def node_table() -> Table:
    """Splits and concurrency."""
    lines = []
    for split in SPLITS:
        for concurrency in (48, 96, 144, 192, 256):
            setup = nodes(
                values(), split, processes=PROCESSES, predictors=PREDICTORS, interval=INTERVAL, apis=APIS
            )
            plain = rate(setup, work("plain", concurrency))
            limit = rate(setup, work("limit", concurrency))
            lines.append(
                {"teachers + students": str(split), "in flight": concurrency}
                | {"plain": round(plain), "limit": round(limit)}
                | line(setup, work("tessy", concurrency), plain, limit)
            )
    return "one node: splits of its 8 GPUs and trajectories in flight", lines


def chunk_table() -> Table:
    """How often the predictor looks, and the other ways."""
    setup = nodes(values(), BEST, processes=PROCESSES, predictors=PREDICTORS, interval=INTERVAL, apis=APIS)
    plain, limit = rate(setup, work("plain")), rate(setup, work("limit"))
    lines = [{"way": name, "k": "–"} | line(setup, work(name), plain, limit) for name in ("plain", "limit")]
    ways = [("tessy", k) for k in ((1, 1), (2, 2), (2, 4), (3, 5), (5, 5), (5, 10), (10, 10), (20, 20))]
    ways += [("chunks", k) for k in ((3, 10), (5, 10), (5, 20), (20, 20))]
    ways += [("public", k) for k in ((5, 10), (20, 20))]
    for way, k in ways:
        each = work(way, chunks=Pair(*k), text=way == "public")
        lines.append({"way": way, "k": f"{k[0]}/{k[1]}"} | line(setup, each, plain, limit))
    known = work("tessy", judged=False)
    lines.append(
        {"way": "tessy, labels known", "k": f"{LOOKS[0]}/{LOOKS[1]}"} | line(setup, known, plain, limit)
    )
    return f"one node, {BEST}, {CONCURRENCY} in flight: ways and chunks", lines


def process_table() -> Table:
    """Orchestrating processes, pairs of predictors, API processes and tokens in a streamed event."""
    lines = []
    plain, limit = (rate(nodes(values(), BEST), work(way)) for way in ("plain", "limit"))
    for processes, predictors, apis, interval in (
        (1, 1, 1, 1),
        (1, 1, 2, 1),
        (1, 2, 2, 1),
        (2, 1, 2, 1),
        (2, 2, 2, 1),
        (2, 2, 4, 1),
        (2, 2, 2, 2),
        (2, 2, 2, 5),
        (4, 4, 2, 1),
        (8, 8, 2, 1),
    ):
        setup = nodes(
            values(), BEST, processes=processes, predictors=predictors, interval=interval, apis=apis
        )
        lines.append(
            {
                "processes": processes,
                "predictors": predictors,
                "API processes": apis,
                "stream interval": interval,
            }
            | line(setup, work("tessy"), plain, limit)
        )
    return f"one node, {BEST}, {CONCURRENCY} in flight: processes", lines


def sensitivity_table() -> Table:
    """One figure at a time at its lowest and highest; spans and lengths too."""
    lines = [_sensitive("as believed", values(), {})]
    for name, figure in FIGURES.items():
        if name not in ("teacher.cache1", "teacher.cache4"):
            for side in ("low", "high"):
                changed = values() | {name: getattr(figure, side)}
                lines.append(_sensitive(f"{name} {side}: {getattr(figure, side):g}", changed, {}))
    for means in ((3, 10.6), (3, 29), (10, 36), (9, 18)):
        lines.append(_sensitive(f"spans of {means[0]:g} and {means[1]:g}", values(), {"means": Pair(*means)}))
    lines.append(_sensitive("thinking of 5,000 to 8,000", values(), {"tokens": (5000, 8000)}))
    lines.append(_sensitive("thinking of 16,000 to 24,000", values(), {"tokens": (16000, 24000)}))
    return f"one node, {BEST}, {CONCURRENCY} in flight: sensitivity", lines


def _sensitive(name: str, figures: Mapping[str, float], changes: Mapping[str, Any]) -> Line:
    setup = nodes(figures, BEST, processes=PROCESSES, predictors=PREDICTORS, interval=INTERVAL, apis=APIS)
    limit, tessy = (simulate(setup, work(way, **changes)).figures for way in ("limit", "tessy"))
    return {
        "what": name,
        "limit": round(limit["tok/s"]),
        "tessy": round(tessy["tok/s"]),
        "÷ limit": round(tessy["tok/s"] / limit["tok/s"], 2),
        "waste": f"{tessy['waste']:.0%}",
    }


def nodes_table() -> Table:
    """32 nodes, all driven together, by so many orchestrating processes."""
    one = nodes(values(), BEST, processes=PROCESSES, predictors=PREDICTORS, interval=INTERVAL, apis=APIS)
    # Nodes share nothing but what drives them, so the references of many are those of one, so many times.
    plain, limit = rate(one, work("plain")), rate(one, work("limit"))
    lines = []
    for count, processes in ((1, 2.0), (32, 0.25), (32, 1.0), (32, 2.0)):
        setup = nodes(
            values(),
            BEST,
            count=count,
            processes=processes,
            predictors=PREDICTORS,
            interval=INTERVAL,
            apis=APIS,
        )
        each = work("tessy", count * CONCURRENCY, **({"warm": 3.0, "window": 4.0} if count > 1 else {}))
        lines.append(
            {"nodes": count, "processes": round(count * processes), "in flight": each.concurrency}
            | {"plain": round(count * plain), "limit": round(count * limit)}
            | line(setup, each, count * plain, count * limit)
        )
    return f"nodes of {BEST}, {CONCURRENCY} in flight each", lines


TABLES: Mapping[str, Callable[[], Table]] = {
    "node": node_table,
    "chunks": chunk_table,
    "processes": process_table,
    "sensitivity": sensitivity_table,
    "nodes": nodes_table,
    "published": published_table,
    "facts": facts_table,
}


def markdown(lines: Sequence[Line]) -> str:
    """A table as the documentation has it."""
    names = list(lines[0])
    rows = [names, ["---"] * len(names), *([_cell(line[name]) for name in names] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1000:
        return f"{value:,}"
    return str(value)


def main() -> int:
    """Print the tables that were asked for; 1 if a prediction misses what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--against", type=Path, metavar="FILE", help="what `alternation` measured")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="what `calibrate` measured")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(TABLES)
    if unknown or not (arguments.tables or arguments.against):
        parser.error(
            f"give --against, or some of {', '.join(TABLES)}; not {', '.join(sorted(unknown)) or 'nothing'}"
        )
    tables: dict[str, list[Line]] = {}
    missed: list[Line] = []
    for name in arguments.tables:
        title, tables[name] = TABLES[name]()
        print(f"\n{title}\n\n{markdown(tables[name])}", flush=True)
    if arguments.against:
        figures = dict(CPU)
        if arguments.calibration:
            figures |= json.loads(arguments.calibration.read_text())
        outcomes = json.loads(arguments.against.read_text())
        lines = list(against(outcomes, figures))
        tables["against"] = lines
        missed = misses(lines)
        print(f"\npredicted and measured\n\n{markdown(lines)}")
        print(f"\n{len(missed)} of the limit's and tessy's are off by more than {TOLERANCE:.0%}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
