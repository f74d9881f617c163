"""What a kept token costs in our own process, by the length of the trajectory and by how many are in flight.

It should depend on neither. Runs between scripted servers that answer at once, each in a process of its own: those of
different lengths have equally many in flight, those of the first length have more and more. A long run less one of a
single trajectory, so that starting does not count. What a request must carry (the whole prompt, which the API wants
anew each time) is in it. Medians of paired repetitions.

    python benchmarks/chunk_cost.py [--lengths 1000 4000 16000 32000] [--concurrency 16 64 1024 4096] [--chunks 3 5]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import NamedTuple

import uvloop

from run_memory import peak_mib
from scripted import in_a_process_of_its_own, pair, run_config, write_questions
from tessy.programs.config import STREAMED_CHUNK, RunConfig
from tessy.programs.run import synthesize
from tessy.trajectory import Speaker

TOKENS_PER_CLAUSE = 28.3
"""Thinking tokens of both speakers that the two write for a clause of the script, about."""
CONTEXT = 131_072
"""Tokens: a byte is one of the student's, so a trajectory is longer to it than it is."""


class Case(NamedTuple):
    """One run."""

    length: int
    """Thinking tokens of a trajectory, about."""
    concurrency: int
    tokens: int
    """Of the whole run at least; at least one trajectory for each in flight."""
    chunks: tuple[int, int]
    stream: bool = True


class Spent(NamedTuple):
    """What a run took."""

    trajectories: int
    tokens: int
    requests: int
    cpu: float
    """Seconds."""
    kernel: float
    """Of these, in the kernel, which copies what is sent."""
    peak_mib: float

    def less(self, other: Spent) -> Spent:
        """What this run took more than `other`."""
        return Spent(
            self.trajectories - other.trajectories,
            self.tokens - other.tokens,
            self.requests - other.requests,
            self.cpu - other.cpu,
            self.kernel - other.kernel,
            self.peak_mib,
        )

    @property
    def per_token(self) -> float:
        """Microseconds for a kept token."""
        return 1e6 * self.cpu / self.tokens

    @property
    def kernel_per_token(self) -> float:
        """Microseconds of the kernel's for a kept token."""
        return 1e6 * self.kernel / self.tokens


def spend(config: RunConfig) -> Spent:
    """Do the run, in the process that calls it."""
    before = getrusage(RUSAGE_SELF)
    summary = uvloop.run(synthesize(config))
    after = getrusage(RUSAGE_SELF)
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    assert summary.owed == summary.failed == 0, summary
    tokens, requests = sum(summary.totals.tokens.values()), sum(summary.requests.values())
    return Spent(summary.kept, tokens, requests, user + kernel, kernel, peak_mib())


def profiled(config: RunConfig) -> Spent:
    """The same, and where the CPU time goes."""
    with cProfile.Profile(time.thread_time) as profile:
        spent = spend(config)
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    return spent


def measure(case: Case, work: object = spend) -> Spent:
    """What the run takes more than one of a single trajectory."""
    spent: list[Spent] = []
    clauses = round(case.length / TOKENS_PER_CLAUSE)
    with pair(clauses, "--max-model-len", str(CONTEXT)) as urls:
        for count in (max(case.concurrency, case.tokens // case.length), 1):
            with tempfile.TemporaryDirectory() as scratch:
                write_questions(Path(scratch), count)
                limits = {"thinking_tokens": CONTEXT // 2, "context_tokens": CONTEXT}
                given = {"concurrency": case.concurrency, "attempts": 1, "stream": case.stream}
                config = run_config(Path(scratch), urls, case.chunks, limits=limits, **given)
                spent.append(in_a_process_of_its_own(work, config))
    return spent[0].less(spent[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 4_000, 16_000, 32_000])
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[16, 64, 1_024, 4_096], help="the first for all lengths"
    )
    parser.add_argument("--tokens", type=int, default=200_000, help="thinking tokens of each run, at least")
    usual = [STREAMED_CHUNK[speaker] for speaker in Speaker]
    parser.add_argument("--chunks", type=int, nargs=2, default=usual, help="of student and teacher")
    parser.add_argument("--chunked", action="store_true", help="a request for each chunk, no streams")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", type=int, help="only this length, with a profile")
    given = parser.parse_args()

    def case(length: int, concurrency: int) -> Case:
        chunks = (given.chunks[0], given.chunks[1])
        return Case(length, concurrency, given.tokens, chunks, not given.chunked)

    first, *more = given.concurrency
    if given.profile:
        print(measure(case(given.profile, first), profiled))
        return
    cases = [case(length, first) for length in given.lengths]
    cases += [case(given.lengths[0], concurrency) for concurrency in more]
    print(
        f"{'in flight':>9}{'thinking tokens':>17}{'kept tokens':>13}{'requests/1000':>15}{'us/token':>10}"
        f"{'kernel':>8}{'ratio':>8}{'peak MiB':>10}"
    )
    found: dict[Case, list[Spent]] = {each: [measure(each) for _ in range(given.repeat)] for each in cases}
    for each, spent in found.items():
        ratios = [one.per_token / other.per_token for one, other in zip(spent, found[cases[0]], strict=True)]
        one = spent[0]
        print(
            f"{each.concurrency:>9,}{(one.tokens - 20 * one.trajectories) / one.trajectories:>17,.0f}{one.tokens:>13,}"
            f"{1000 * one.requests / one.tokens:>15.1f}{median(s.per_token for s in spent):>10.1f}"
            f"{median(s.kernel_per_token for s in spent):>8.1f}{median(ratios):>8.2f}"
            f"{median(s.peak_mib for s in spent):>10.0f}"
        )


if __name__ == "__main__":
    main()
