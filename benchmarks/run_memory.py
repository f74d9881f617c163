"""Memory of a long run, and how long it takes to start it again when all of it is kept.

A run over generated questions against two scripted servers in processes of their own, with the shortest possible
trajectories: two requests each. Prints the peak memory of the orchestrating process and its pace, then starts
again on the finished directory, in a fresh process, and prints the seconds until it says that nothing is owed.
On a busy machine the CPU seconds tell more than the seconds.

    python benchmarks/run_memory.py [--questions 200000] [--concurrency 64] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from scripted import in_a_process_of_its_own, pair, run_config, write_questions
from tessy.programs.config import RunConfig
from tessy.programs.run import synthesize


class Life(NamedTuple):
    """What one process did of a run, and what it took."""

    kept: int
    owed: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    torch: bool


def live(config: RunConfig) -> Life:
    """Work off what is owed, in the process that calls it."""
    started, used = time.perf_counter(), time.process_time()
    summary = asyncio.run(synthesize(config))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    return Life(summary.kept, summary.owed, seconds, cpu_seconds, peak_mib(), "torch" in sys.modules)


def peak_mib() -> float:
    """The most memory that this process ever held at once, in MiB."""
    return _mib("VmHWM")


def held_mib() -> float:
    """The memory that this process holds now, in MiB."""
    return _mib("VmRSS")


def _mib(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def measure(folder: Path, questions: int, concurrency: int) -> None:
    write_questions(folder, questions)
    with pair(clauses=0) as urls:
        config = run_config(folder, urls, (64, 64), concurrency=concurrency)
        first: Life = in_a_process_of_its_own(live, config)
        again: Life = in_a_process_of_its_own(live, config)
    size = sum(file.stat().st_size for file in (folder / "run").iterdir()) / 2**20
    print(f"{questions:,} questions, concurrency {concurrency}, run directory {size:,.0f} MiB")
    print(
        f"{'':8}{'kept':>10}{'owed':>8}{'seconds':>10}{'CPU s':>8}{'per second':>12}{'peak MiB':>10}  torch"
    )
    for name, life in (("first", first), ("again", again)):
        print(
            f"{name:8}{life.kept:>10,}{life.owed:>8,}{life.seconds:>10.1f}{life.cpu_seconds:>8.1f}"
            f"{life.kept / life.seconds:>12,.0f}{life.peak_mib:>10.0f}"
            f"  {'loaded' if life.torch else 'not loaded'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=200_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to leave the run (default: nowhere)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, arguments.questions, arguments.concurrency)


if __name__ == "__main__":
    main()
