"""What a kept token costs in 1, 2 and 4 processes over one run directory, and what of it the parent has to bear.

Runs between scripted servers that answer at once, each in a process of its own. A long run less a short one, so that
starting does not count. CPU time, since the cores of this machine are shared with the servers: what the busiest process
spends for a kept token bounds the rate where each has a core of its own. Medians of paired repetitions.

    python benchmarks/processes_scale.py [--tokens 300000] [--length 4000] [--repeat 3] [--chunked]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop

from chunk_cost import TOKENS_PER_CLAUSE
from scripted import in_a_process_of_its_own, pair, run_config, write_questions
from tessy.programs.config import RunConfig
from tessy.programs.run import synthesize

NUMBERS = (1, 2, 4)
CONCURRENCY = 32
CHUNKS = (20, 20)


class Spent(NamedTuple):
    """What a run took, in seconds."""

    tokens: int
    parent: float
    """CPU of the process that has the run directory open."""
    workers: float
    """CPU of all others."""
    clock: float

    def less(self, other: Spent) -> Spent:
        """What this run took more than `other`."""
        return Spent(
            self.tokens - other.tokens,
            self.parent - other.parent,
            self.workers - other.workers,
            self.clock - other.clock,
        )


class Cost(NamedTuple):
    """Microseconds of CPU for a kept token."""

    all: float
    parent: float
    busiest: float
    """Of the process that bounds the rate: the parent, or a worker on average."""
    rate: float
    """Kept tokens per second by the clock, servers on the same cores."""


def spend(config: RunConfig) -> Spent:
    """Do the run; the process that calls it is the parent."""
    parent, workers, clock = time.process_time(), _children(), time.monotonic()
    summary = uvloop.run(synthesize(config))
    assert summary.owed == summary.failed == 0, summary
    return Spent(
        sum(summary.totals.tokens.values()),
        time.process_time() - parent,
        _children() - workers,
        time.monotonic() - clock,
    )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(number: int, questions: int, urls: tuple[str, str], *, stream: bool) -> Cost:
    """The cost in so many processes."""
    spent = []
    for count in (questions, CONCURRENCY):
        with tempfile.TemporaryDirectory() as scratch:
            write_questions(Path(scratch), count)
            given = {"concurrency": CONCURRENCY, "attempts": 1, "processes": number, "stream": stream}
            config = run_config(Path(scratch), urls, CHUNKS, **given)
            spent.append(in_a_process_of_its_own(spend, config))
    more: Spent = spent[0].less(spent[1])
    busiest = max(more.parent, more.workers / number)
    of_all, parent, most = (
        1e6 * seconds / more.tokens for seconds in (more.parent + more.workers, more.parent, busiest)
    )
    return Cost(of_all, parent, most, more.tokens / more.clock)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=300_000, help="thinking tokens of the long run")
    parser.add_argument("--length", type=int, default=4_000, help="thinking tokens of a trajectory")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--per-event", type=int, default=1, help="tokens that an event of a stream tells")
    parser.add_argument("--chunked", action="store_true", help="a request for each chunk, no streams")
    given = parser.parse_args()
    questions = CONCURRENCY + given.tokens // given.length
    costs: dict[int, list[Cost]] = {number: [] for number in NUMBERS}
    for _ in range(given.repeat):
        options = ("--per-event", str(given.per_event))
        with pair(round(given.length / TOKENS_PER_CLAUSE), *options) as urls:
            for number in NUMBERS:
                costs[number].append(measure(number, questions, urls, stream=not given.chunked))
    show(costs)


def show(costs: Mapping[int, Sequence[Cost]]) -> None:
    """Print medians, and the medians of the ratios to one process within a repetition."""
    print(
        f"{'processes':>9}{'all us/token':>14}{'ratio':>7}{'parent us/token':>17}{'busiest us/token':>18}"
        f"{'scales by':>11}{'tok/s here':>12}{'ratio':>7}"
    )
    for number, found in costs.items():
        pairs = list(zip(found, costs[NUMBERS[0]], strict=True))
        print(
            f"{number:>9}{median(cost.all for cost in found):>14.1f}"
            f"{median(cost.all / one.all for cost, one in pairs):>7.2f}"
            f"{median(cost.parent for cost in found):>17.2f}{median(cost.busiest for cost in found):>18.1f}"
            f"{median(one.busiest / cost.busiest for cost, one in pairs):>11.2f}"
            f"{median(cost.rate for cost in found):>12,.0f}"
            f"{median(cost.rate / one.rate for cost, one in pairs):>7.2f}"
        )


if __name__ == "__main__":
    main()
