"""What a kept token costs in our own process, by the length of the trajectory: it should not depend on it.

Runs of equally many tokens in trajectories of 1,000 to 30,000 thinking tokens, against scripted servers that answer
at once, each in a process of its own. Prints CPU microseconds of the orchestrating process for each kept token, and
the ratio to the shortest; what a request must carry (the whole prompt, which the API wants anew each time) is in it.

    python benchmarks/chunk_cost.py [--tokens 120000] [--chunks 20 20] [--profile LENGTH]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from scripted import in_a_process_of_its_own, pair, run_config, write_questions
from tessy.programs.config import RunConfig
from tessy.programs.run import synthesize

LENGTHS = (1_000, 4_000, 16_000, 30_000)
TOKENS_PER_CLAUSE = 28.3
"""Thinking tokens of both speakers that the two write for a clause of the script, about."""
CONCURRENCY = 4


class Cost(NamedTuple):
    """What a run took."""

    thinking: float
    """Tokens of a thinking, on average."""
    tokens: int
    requests: int
    cpu_seconds: float

    @property
    def per_token(self) -> float:
        """Microseconds."""
        return 1e6 * self.cpu_seconds / self.tokens

    @property
    def per_request(self) -> float:
        """Microseconds."""
        return 1e6 * self.cpu_seconds / self.requests


def spend(config: RunConfig) -> Cost:
    """Do the run, in the process that calls it."""
    used = time.process_time()
    summary = uvloop.run(synthesize(config))
    used = time.process_time() - used
    assert summary.owed == summary.failed == 0, summary
    tokens, answers = sum(summary.totals.tokens.values()), 20 * summary.kept
    return Cost((tokens - answers) / summary.kept, tokens, sum(summary.requests.values()), used)


def profiled(config: RunConfig) -> Cost:
    """The same, and where the time goes."""
    with cProfile.Profile() as profile:
        cost = spend(config)
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return cost


def measure(length: int, tokens: int, chunks: tuple[int, int], work: object = spend) -> Cost:
    """The cost of `tokens` tokens in trajectories of `length`."""
    with tempfile.TemporaryDirectory() as scratch, pair(round(length / TOKENS_PER_CLAUSE)) as urls:
        folder = Path(scratch)
        write_questions(folder, max(CONCURRENCY, tokens // length))
        config = run_config(folder, urls, chunks, concurrency=CONCURRENCY, attempts=1)
        cost: Cost = in_a_process_of_its_own(work, config)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=120_000, help="thinking tokens of each run")
    parser.add_argument("--chunks", type=int, nargs=2, default=(20, 20), help="of student and teacher")
    parser.add_argument("--profile", type=int, help="only this length, with a profile")
    arguments = parser.parse_args()
    chunks = (arguments.chunks[0], arguments.chunks[1])
    if arguments.profile:
        print(measure(arguments.profile, arguments.tokens, chunks, profiled))
        return
    print(
        f"{'thinking tokens':>15}{'kept tokens':>13}{'requests':>10}{'us/token':>10}{'us/request':>12}{'ratio':>8}"
    )
    first = None
    for length in LENGTHS:
        cost = measure(length, arguments.tokens, chunks)
        first = first or cost
        print(
            f"{cost.thinking:>15,.0f}{cost.tokens:>13,}{cost.requests:>10,}{cost.per_token:>10.1f}"
            f"{cost.per_request:>12.1f}{cost.per_token / first.per_token:>8.2f}"
        )


if __name__ == "__main__":
    main()
