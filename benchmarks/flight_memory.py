"""Memory of the orchestrating process with thousands of long trajectories in flight at once.

One trajectory is written between two scripted servers until it is nearly as long as wanted; its journalled steps are
copied to all others, and the run goes on: every trajectory is taken up where it was, is in flight at its full length,
has a stream open, and is finished. Prints what a fresh process holds while all are in flight, and its peak, which is
when all of them end at the same moment and their rows wait for the disk; beside one with few in flight.

    python benchmarks/flight_memory.py [--in-flight 4096] [--length 16000]
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import uvloop

from chunk_cost import TOKENS_PER_CLAUSE
from run_memory import held_mib, peak_mib
from scripted import in_a_process_of_its_own, pair, run_config, write_questions
from tessy.adapters.sources import read_questions
from tessy.programs.config import RunConfig
from tessy.programs.progress import Progress
from tessy.programs.run import synthesize
from tessy.trajectory import trajectory_id

CHUNKS = (64, 64)
"""A step a span: what is held is the same, and it is taken up in less time."""
LEFT = 600
"""Tokens that a trajectory has still to write when it is taken up."""
FEW = 64


class Held(NamedTuple):
    """What a process that finished a run had."""

    kept: int
    most_in_flight: int
    tokens: float
    """Of a trajectory."""
    spans: float
    held_mib: float
    """While none was finished, at most."""
    peak_mib: float


async def begin(config: RunConfig, tokens: int) -> None:
    """Write until so many tokens are there, and stop."""
    progress, stop = Progress(), asyncio.Event()
    run = asyncio.create_task(synthesize(config, progress=progress, stop=stop))
    while not run.done():
        await asyncio.sleep(0.001)
        if sum(progress.tokens.values()) >= tokens:
            stop.set()
    await run


async def go_on(config: RunConfig) -> Held:
    """Finish the run; how many were in flight at once is looked at all the time."""
    progress, most, held = Progress(), 0, 0.0
    run = asyncio.create_task(synthesize(config, progress=progress))
    while not run.done():
        if not progress.kept:
            most, held = max(most, progress.in_flight), max(held, held_mib())
        await asyncio.sleep(0.05)
    summary = await run
    totals = summary.totals
    assert summary.owed == summary.failed == 0, summary
    each = sum(totals.tokens.values()) / summary.kept
    return Held(summary.kept, most, each, totals.switches / summary.kept + 1, held, peak_mib())


def spend(config: RunConfig) -> Held:
    """The same, in the process that calls it."""
    return uvloop.run(go_on(config))


def copy_steps(folder: Path) -> None:
    """Give every question's trajectory the steps of the first one's."""
    questions = read_questions(str(folder / "questions.jsonl"))
    first, *others = (trajectory_id(question.id, 0) for question in questions)
    copy = "INSERT INTO steps SELECT ?, n, step FROM steps WHERE id = ?"
    with closing(sqlite3.connect(folder / "run" / "state.sqlite")) as db, db:
        db.executemany(copy, ((other, first) for other in others))


def measure(in_flight: int, length: int) -> Held:
    """So many trajectories of about `length` tokens at once."""
    with tempfile.TemporaryDirectory() as scratch, pair(round(length / TOKENS_PER_CLAUSE)) as urls:
        folder = Path(scratch)
        write_questions(folder, in_flight)
        config = run_config(folder, urls, CHUNKS, concurrency=1)
        uvloop.run(begin(config, length - LEFT))
        copy_steps(folder)
        config = run_config(folder, urls, CHUNKS, concurrency=in_flight)
        held: Held = in_a_process_of_its_own(spend, config)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in-flight", type=int, default=4096)
    parser.add_argument("--length", type=int, default=16_000, help="tokens of a trajectory, about")
    given = parser.parse_args()
    few, many = measure(FEW, given.length), measure(given.in_flight, given.length)
    print(
        f"{'in flight':>10}{'tokens each':>13}{'spans each':>12}{'MiB held':>10}{'KiB each':>10}{'peak MiB':>10}"
    )
    for held in (few, many):
        each = 1024 * (many.held_mib - few.held_mib) / (many.most_in_flight - few.most_in_flight)
        print(
            f"{held.most_in_flight:>10,}{held.tokens:>13,.0f}{held.spans:>12,.0f}{held.held_mib:>10,.0f}{each:>10,.0f}{held.peak_mib:>10,.0f}"
        )


if __name__ == "__main__":
    main()
