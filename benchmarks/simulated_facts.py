"""The simulation beside what was measured: published iterations, the facts of issue 8, the figures of `alternation`.

Knows neither how tables are printed nor what GPU nodes are predicted to do (`simulate`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median
from typing import Any

from hardware import CPU, cpu, student, teacher, values
from simulated_ways import simulate
from simulated_world import Pair, Work

TOLERANCE = 0.15
Line = dict[str, Any]
Table = tuple[str, list[Line]]

PUBLISHED = (
    # who, GPUs, rows, mean context, ms for a token, where
    ("student", 1, 1, 640, 6.86, "silybench decode-128-1024"),
    ("student", 1, 16, 640, 7.53, "silybench decode-128-1024"),
    ("student", 1, 64, 640, 9.49, "silybench decode-128-1024"),
    ("student", 1, 256, 640, 18.08, "silybench decode-128-1024"),
    ("student", 1, 64, 192, 8.15, "silybench chat-128-128"),
    ("student", 1, 256, 192, 12.83, "silybench chat-128-128"),
    ("student", 1, 32, 3072, 11.87, "silybench balanced-2048-2048"),
    ("student", 1, 64, 3072, 17.05, "silybench balanced-2048-2048"),
    ("student", 1, 16, 5200, 11.91, "ML.ENERGY gpqa"),
    ("student", 1, 63, 5200, 26.64, "ML.ENERGY gpqa"),
    ("teacher", 1, 4, 300, 8.31, "GPUStack, ShareGPT"),
    ("teacher", 1, 8, 1200, 9.86, "ML.ENERGY gpqa"),
    ("teacher", 1, 16, 1200, 13.23, "ML.ENERGY gpqa"),
    ("teacher", 1, 32, 1200, 17.96, "ML.ENERGY gpqa"),
    ("teacher", 1, 64, 1200, 24.15, "ML.ENERGY gpqa"),
    ("teacher", 2, 4, 300, 5.75, "GPUStack, ShareGPT"),
    ("teacher", 2, 128, 1200, 22.50, "ML.ENERGY gpqa"),
    ("teacher", 2, 1024, 1200, 79.71, "ML.ENERGY gpqa"),
)


def published_table() -> Table:
    """An iteration as modelled, and as published."""
    lines = []
    for who, gpus, rows, context, milliseconds, source in PUBLISHED:
        rates = teacher(values(), gpus) if who == "teacher" else student(values())
        modelled = 1e3 * rates.iteration(rows, 0, rows * context)
        lines.append(
            {
                "model": who,
                "GPUs": gpus,
                "rows": rows,
                "context": context,
                "published ms": milliseconds,
                "modelled ms": round(modelled, 2),
                "off": f"{modelled / milliseconds - 1:+.0%}",
                "source": source,
            }
        )
    return "an iteration, published and modelled", lines


FACTS = (
    # servers, figures, block, concurrency, means, way, chunks, tok/s
    *(
        ("one", {"row": 6.0e-4, "token": 6.6e-4}, 128, 64, (5, 18), way, (5, 10), rate)
        for way, rate in (("plain", 585), ("limit", 194))
    ),
    *(
        ("one", {"row": 6.0e-4, "token": 6.6e-4}, 32, 64, (5, 18), way, (5, 10), rate)
        for way, rate in (("plain", 679), ("limit", 409))
    ),
    *(
        ("one", {"row": 3.1e-3, "token": 6.6e-4}, 32, 64, (5, 18), way, (5, 10), rate)
        for way, rate in (("plain", 247), ("limit", 199))
    ),
    *(
        ("two, one core", {}, 32, 64, (5, 18), way, (5, 10), rate)
        for way, rate in (("plain", 209), ("limit", 137))
    ),
    *(("two", {}, 32, 64, (5, 18), way, (5, 10), rate) for way, rate in (("plain", 249), ("limit", 238))),
    *(("two", {}, 32, 16, (5, 18), way, (5, 10), rate) for way, rate in (("plain", 235), ("limit", 204))),
    # 0.95 and 0.91 of the limit, with a client that looked at each token and knew the boundaries.
    ("two", {}, 32, 64, (5, 18), "tessy", (1, 1), 226),
    ("two", {}, 32, 16, (5, 18), "tessy", (1, 1), 186),
    ("two", {}, 32, 64, (3, 29), "limit", (5, 10), 230),
    ("two", {}, 32, 16, (3, 29), "limit", (5, 10), 197),
    ("two", {"predictor.each": 1.8e-2}, 32, 64, (3, 29), "public", (5, 10), 121),
    ("two", {"predictor.each": 1.8e-2}, 32, 16, (3, 29), "public", (5, 10), 82),
    ("two", {"predictor.each": 1.8e-2}, 32, 64, (3, 29), "public", (20, 20), 125),
)


def facts_table() -> Table:
    """The CPU servers as issue 8 has them."""
    lines = []
    for servers, changes, block, concurrency, means, way, k, rate in FACTS:
        cores = {"one": "own", "two": "each", "two, one core": "one"}[servers]
        setup = cpu(dict(CPU) | changes, block=block, cores=cores, same=servers == "one")
        each = Work(
            way,
            concurrency,
            (200, 300),
            Pair(*means),
            Pair(*k),
            extra=0.5,
            prompt=16,
            judged=way == "public",
            text=way == "public",
            trajectories=2 * concurrency,
        )
        predicted = simulate(setup, each).figures["tok/s"]
        lines.append(
            {
                "servers": servers,
                "block": block,
                "concurrency": concurrency,
                "spans": f"{means[0]}/{means[1]}",
                "way": way if way in ("plain", "limit") else f"{way} {k[0]}/{k[1]}",
                "measured": rate,
                "predicted": round(predicted),
                "off": f"{predicted / rate - 1:+.0%}",
            }
        )
    return "the CPU servers of issue 8", lines


# --- against what was measured ----------------------------------------------------------------------------------

MEASURED = {
    "limit": ("limit", False),
    "tessy, labels known": ("tessy", False),
    "tessy": ("tessy", True),
    "plain": ("plain", False),
    "tessy, plain chunks": ("chunks", True),
    "public": ("public", True),
}
BOUND = ("limit", "tessy, labels known", "tessy")
"""What has to be predicted within `TOLERANCE`."""


def _name(way: str) -> str:
    """A way without its chunks."""
    return re.sub(r" \d+/\d+$", "", way)


def against(outcomes: Sequence[Mapping[str, Any]], figures: Mapping[str, float]) -> Iterator[Line]:
    """Predicted and measured rates of each case and way of `alternation`'s figures."""
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        cases.setdefault(json.dumps(outcome["case"]), []).append(outcome)
    for mine in cases.values():
        for way in dict.fromkeys(outcome["way"] for outcome in mine):
            if _name(way) in MEASURED:
                yield _compared(way, mine, figures)


def _compared(way: str, mine: Sequence[Mapping[str, Any]], figures: Mapping[str, float]) -> Line:
    case = mine[0]["case"]
    rows = [outcome for outcome in mine if outcome["way"] == way]
    measured = median(row["kept"] / row["seconds"] for row in rows)
    kept = [row for row in mine if row["way"] == mine[0]["way"]]
    name, judged = MEASURED[_name(way)]
    least, most = 2 * case["tokens"] // 3, case["tokens"]
    each = Work(
        name,
        case["concurrency"],
        (least, most),
        Pair(*case["means"]),
        Pair(*(rows[0]["chunks"] or (1, 1))),
        # What was kept was longer than planned, by as much as the cut moved boundaries.
        extra=max(0.0, mean(row["kept"] / row["spans"] for row in kept) - mean(case["means"])),
        prompt=16,
        judged=judged,
        text=name == "public",
        trajectories=round(2 * mean(row["kept"] for row in kept) / (least + most)),
    )
    usual = case.get("usual", False)
    setup = cpu(figures, block=128 if usual else 32, cores="one" if usual else "each")
    predicted = simulate(setup, each).figures
    return {
        "concurrency": case["concurrency"],
        "tokens": case["tokens"],
        "spans": "/".join(f"{mean:g}" for mean in case["means"]),
        "usual": usual,
        "way": way,
        "measured": round(measured, 1),
        "predicted": round(predicted["tok/s"], 1),
        "predicted ÷ measured": round(predicted["tok/s"] / measured, 3),
        "waste measured": f"{median(row['generated'] / row['kept'] - 1 for row in rows):.0%}",
        "waste predicted": f"{predicted['waste counted']:.0%}",
    }


def misses(lines: Sequence[Line]) -> list[Line]:
    """The lines of `against` that ought to be nearer."""
    return [
        line
        for line in lines
        if _name(line["way"]) in BOUND and abs(line["predicted ÷ measured"] - 1) > TOLERANCE
    ]
