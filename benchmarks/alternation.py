"""How close tessy comes to the limit of alternation, and how far from the public algorithm: two real vLLM servers.

SmolLM2-135M in both roles, a core for each server. Everything is measured on the same servers in the same run, one way
after the other, several times over; a repetition begins with tessy, and the limit and plain then write spans of
just the lengths that tessy kept. The figures are medians; ratios are taken within a repetition. What the servers
generated and computed is what they count themselves. `drivers` has the ways; docs/performance.md says how to read
the table.

    python benchmarks/alternation.py [--quick] [--concurrency 16 64] [--tokens 300] [--means 5 18] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import uvloop
from rich.console import Console
from rich.table import Table

import vllm_servers
from drivers import Judge, Plan, Setting, Spans, limit, plain, public, tessy
from stand_ins import HIDDEN, LAYERS, PARAMETERS, random_predictor, unending_model
from tessy.adapters.predictors import TokenClassifier
from tessy.adapters.server import Dialect, IdsOut, ServerEngine, ServerOptions
from tessy.adapters.tokenizer import HFTokenizer
from tessy.protocols import Sampling
from tessy.trajectory import Speaker
from vllm_servers import Metrics

T = TypeVar("T")

SEED = 7
SAMPLED = Sampling()
"""The public code's: T 0.7, top-p 0.8, top-k 20."""
TEXT = (Dialect(ids_in=False, ids_out=IdsOut.NONE),)
"""How the public code asks: text in, text out."""
FIRST = "tessy, labels known"
"""What it keeps, the references write."""
REFERENCES = ("limit", "limit, streamed", "limit, a token late", "plain")
WAYS = (FIRST, *REFERENCES, "tessy", "tessy, plain chunks", "public")
PUBLIC = (5, 10, 20, 20)
"""Tokens a call of the public algorithm, in pairs: its code's own, and the paper's."""


class Way(NamedTuple):
    """One way of writing, and how many tokens student and teacher are asked for at a time, where it asks so."""

    name: str
    chunks: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """As the table has it."""
        return f"{self.name} {self.chunks[0]}/{self.chunks[1]}" if self.chunks else self.name


def ways_of(
    names: Sequence[str], chunks: Sequence[tuple[int, int]], public: Sequence[tuple[int, int]]
) -> list[Way]:
    """All ways of these names; `chunks`: of tessy, the first of them for what the others are compared with."""
    found = [Way(FIRST, chunks[0])]
    for name in names:
        if name in REFERENCES:
            found.append(Way(name))
        else:
            found += [Way(name, each) for each in (public if name == "public" else chunks)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Case:
    """What is written: concurrency, thinking tokens of a trajectory, and how long spans are on average."""

    concurrency: int
    tokens: int
    means: tuple[float, float]
    usual: bool = False
    """vLLM's own choice of cores and of the size of a cache block."""


@dataclass(frozen=True)
class Outcome:
    """One way, once."""

    way: str
    chunks: tuple[int, int] | None
    case: Case
    repetition: int
    kept: int
    seconds: float
    spans: int
    requests: int
    generated: int
    """By the servers' own count, as the next three."""
    prompt: int
    looked_up: int
    found: int
    waited: float
    """Seconds that trajectories waited for a predictor, all together."""
    critical: float
    """Those of them in which nothing that was wanted could go on."""
    cpu: float
    """Seconds of CPU of the process that drives, its predictors included."""

    @property
    def rate(self) -> float:
        """Kept tokens per second."""
        return self.kept / self.seconds

    def figures(self) -> dict[str, float]:
        """What the table shows of it, besides the ratios."""
        return {
            "tok/s": self.rate,
            "waste": self.generated / self.kept - 1,
            "requests/span": self.requests / self.spans,
            "requests/1000": 1000 * self.requests / self.kept,
            "computed/token": (self.prompt - self.found) / self.kept,
            "cache hits": self.found / max(1, self.looked_up),
            "predictor": self.waited / (self.case.concurrency * self.seconds),
            "critical": self.critical / (self.case.concurrency * self.seconds),
            "cpu us/token": 1e6 * self.cpu / self.kept,
        }


@dataclass(frozen=True)
class Bench:
    """Everything that a repetition needs."""

    urls: Mapping[Speaker, str]
    tokenizer: HFTokenizer
    predictors: Mapping[Speaker, TokenClassifier]
    anew: Mapping[Speaker, TokenClassifier]
    """The same, as the public code has them: each draft's window is read from its beginning."""
    per_slot: int
    sampling: Sampling

    def plans(self, case: Case, repetition: int) -> list[Plan]:
        """What is to be written in a repetition: its own questions, two thirds to all of the tokens each."""
        draws = random.Random(f"{SEED} {case} {repetition}")
        means = dict(zip(Speaker, case.means, strict=True))
        count = self.per_slot * case.concurrency
        return [
            Plan(
                draws.getrandbits(40),
                tuple(
                    self.tokenizer.encode(
                        f"Lesson {draws.randrange(10**6)}, on {draws.choice(TOPICS)}. Let us"
                    )
                ),
                draws.randint(2 * case.tokens // 3, case.tokens),
                means,
            )
            for _ in range(count)
        ]


TOPICS = (
    "the history of bread",
    "how ships are built",
    "the seasons",
    "prime numbers",
    "rivers",
    "good letters",
)


async def measure(
    way: Way, case: Case, repetition: int, bench: Bench, before: Sequence[Spans]
) -> tuple[Outcome, list[Spans]]:
    """Do one way once. `before`: the spans that tessy kept in this repetition."""
    known, chunks = way.name in (FIRST, *REFERENCES), way.chunks or (1, 1)
    engines = {speaker: _engine(way.name, speaker, case, bench) for speaker in Speaker}
    judge = Judge(None if known else bench.anew if way.name == "public" else bench.predictors)
    setting = Setting(
        engines, bench.tokenizer, case.concurrency, dict(zip(Speaker, chunks, strict=True)), judge
    )
    plans = bench.plans(case, repetition)
    ways: dict[str, Callable[[], Awaitable[list[Spans]]]] = {
        "limit": lambda: limit(plans, before, setting),
        "limit, streamed": lambda: limit(plans, before, setting, ahead=64),
        "limit, a token late": lambda: limit(plans, before, setting, late=1),
        "plain": lambda: plain(plans, before, setting),
        "public": lambda: public(plans, setting),
    }
    try:
        # Asking what a server understands is no part of it.
        for engine in engines.values():
            await engine.negotiate()
        counted = [vllm_servers.metrics(url) for url in bench.urls.values()]
        started, cpu = time.perf_counter(), time.process_time()
        kept = await ways.get(way.name, lambda: tessy(plans, setting))()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        await asyncio.sleep(0.5)  # a server counts what it cuts off a little later
        now = [vllm_servers.metrics(url) for url in bench.urls.values()]
    finally:
        for engine in engines.values():
            await engine.close()
    spent = [after.since(then) for after, then in zip(now, counted, strict=True)]
    requests = sum(engine.stats.requests for engine in engines.values())
    return _outcome(way, case, repetition, kept, seconds, requests, spent, judge, cpu), kept


def _engine(way: str, speaker: Speaker, case: Case, bench: Bench) -> ServerEngine:
    options = ServerOptions(
        speaker.value,
        (bench.urls[speaker],),
        speaker.value,
        sampling=bench.sampling,
        concurrency=case.concurrency,
        stream=way != "tessy, plain chunks",
    )
    return ServerEngine(options, bench.tokenizer, **({"dialects": TEXT} if way == "public" else {}))


def _outcome(
    way: Way,
    case: Case,
    repetition: int,
    kept: Sequence[Spans],
    seconds: float,
    requests: int,
    spent: Sequence[Metrics],
    judge: Judge,
    cpu: float,
) -> Outcome:
    tokens = sum(length for spans in kept for _, length in spans)
    return Outcome(
        way.label,
        way.chunks,
        case,
        repetition,
        tokens,
        seconds,
        sum(_spans(spans) for spans in kept),
        requests,
        sum(each.generated_tokens for each in spent),
        sum(each.prompt_tokens for each in spent),
        sum(each.prefix_queries for each in spent),
        sum(each.prefix_hits for each in spent),
        judge.seconds,
        judge.critical if way.name == "tessy" else judge.seconds,
        cpu,
    )


def _spans(spans: Spans) -> int:
    """Pieces of one speaker that follow one another are one span."""
    speakers = [speaker for speaker, length in spans if length]
    return sum(1 for n, speaker in enumerate(speakers) if n == 0 or speakers[n - 1] is not speaker)


# --- the whole --------------------------------------------------------------------------------------------------


async def run(
    cases: Sequence[Case], ways: Sequence[Way], repeats: int, bench: Bench, note: Callable[[Outcome], None]
) -> None:
    """All cases, repetition by repetition, after one short round in which the servers warm up."""
    warm = Case(4, 60, cases[0].means)
    await measure(ways[0], warm, -1, bench, ())
    # A thread computes on as many cores as are said when it first computes. While the public algorithm's predictors
    # read, its servers wait, so there are two.
    import torch  # late, so that the number of threads can be set before

    for cores, predictors in ((1, bench.predictors), (2, bench.anew)):
        torch.set_num_threads(cores)
        for predictor in predictors.values():
            await predictor("The seasons are four.", " Let us see.")
    for case in cases:
        for repetition in range(repeats):
            spans: list[Spans] = []
            for way in ways:
                outcome, kept = await measure(way, case, repetition, bench, spans)
                spans = kept if way is ways[0] else spans
                note(outcome)
                print(f"{case} {repetition + 1}/{repeats} {way.label}: {outcome.rate:.1f} tok/s", flush=True)


def table(case: Case, outcomes: Iterable[Outcome]) -> Table:
    """The medians of one case, a row for each way."""
    mine = [outcome for outcome in outcomes if outcome.case == case]
    names = list(mine[0].figures())
    means = "/".join(f"{mean:g}" for mean in case.means)
    usual = ", vLLM's usual cores and blocks" if case.usual else ""
    title = f"concurrency {case.concurrency}, {case.tokens} thinking tokens, spans of {means}{usual}"
    shown = Table("way", *names[:1], "of plain", "of the limit", "of public 5/10", *names[1:], title=title)
    for way in dict.fromkeys(outcome.way for outcome in mine):
        rows = [outcome for outcome in mine if outcome.way == way]
        middle = {name: median(row.figures()[name] for row in rows) for name in names}
        ratios = [_ratio(rows, mine, other) for other in ("plain", "limit", "public 5/10")]
        shares = {"waste", "cache hits", "predictor", "critical"}
        cells = [f"{middle[n]:.1%}" if n in shares else f"{middle[n]:.4g}" for n in names]
        shown.add_row(way, cells[0], *ratios, *cells[1:])
    return shown


def _ratio(rows: Sequence[Outcome], all_rows: Sequence[Outcome], other: str) -> str:
    """The median of the ratios to another way in the same repetition."""
    others = {row.repetition: row.rate for row in all_rows if row.way == other}
    ratios = [row.rate / others[row.repetition] for row in rows if row.repetition in others]
    return f"{median(ratios):.2f}" if ratios else ""


def _serve_and_run(
    cases: Sequence[Case],
    ways: Sequence[Way],
    arguments: argparse.Namespace,
    usual: bool,
    note: Callable[[Outcome], None],
) -> None:
    home = vllm_servers.HOME / "alternation"
    model = unending_model(home / "model")
    predictors = {}
    for speaker in Speaker:
        folder = home / f"{speaker}-predictor"
        size = random_predictor(
            folder, model, arguments.layers, arguments.hidden, list(Speaker).index(speaker)
        )
        predictors[speaker] = folder
    print(
        f"predictors of {size / 1e6:.1f} M parameters, {size / PARAMETERS:.1%} of the student's", flush=True
    )
    folders = {speaker.value: model for speaker in Speaker}
    flags = [*vllm_servers.COMPILED, *shlex.split(arguments.serve)]
    with vllm_servers.serve(folders, home / "logs", usual=usual, flags=flags) as urls:
        bench = Bench(
            {speaker: urls[speaker.value] for speaker in Speaker},
            HFTokenizer(str(model)),
            {
                speaker: TokenClassifier(str(folder), device="cpu", runtime=arguments.runtime)
                for speaker, folder in predictors.items()
            },
            {
                speaker: TokenClassifier(str(folder), device="cpu", max_tokens=16_384, cache_tokens=0)
                for speaker, folder in predictors.items()
            },
            arguments.per_slot,
            Sampling(0.0, 1.0, 0, 0.0) if arguments.greedy else SAMPLED,
        )
        uvloop.run(run(cases, ways, arguments.repeats, bench, note))


def _pairs(values: Sequence[T]) -> list[tuple[T, T]]:
    return list(zip(values[::2], values[1::2], strict=True))


def main() -> None:
    """Measure, print the tables, write the figures."""
    # Before torch is loaded: predictors compute on one core, as one of several processes of a machine would.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="once, few and short trajectories: does it work?"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[300], help="most thinking tokens of a trajectory"
    )
    parser.add_argument(
        "--means", type=float, nargs="+", default=[5, 18], help="of student and teacher, in pairs"
    )
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[1, 1, 3, 5], help="of tessy, student and teacher, in pairs"
    )
    parser.add_argument(
        "--public",
        type=int,
        nargs="+",
        default=PUBLIC,
        help="tokens a call of the public algorithm, in pairs",
    )
    parser.add_argument("--serve", default="", help="more flags for vLLM, as one argument: --serve='--flag'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--per-slot", type=int, default=2, help="trajectories for each one in flight")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the predictors")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="of the predictors")
    parser.add_argument(
        "--runtime",
        choices=("torch", "onnx"),
        default="onnx",
        help="of tessy's predictors; those of the public algorithm are torch's",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="greedy decoding instead of the public code's sampling"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[1:], help=f"beside {FIRST}")
    parser.add_argument(
        "--usual", action="store_true", help="after that the same with vLLM's usual cores and blocks"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("runs/alternation.json"), help="where the figures go"
    )
    arguments = parser.parse_args()
    ways = ways_of(arguments.ways, _pairs(arguments.chunks), _pairs(arguments.public))
    if arguments.quick:
        arguments.concurrency, arguments.tokens, arguments.repeats, arguments.per_slot = [8], [90], 1, 1
    vllm_servers.make_environment()
    means = _pairs(arguments.means)
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        """Each at once: a run takes an hour."""
        outcomes.append(outcome)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        figures = [asdict(outcome) | {"figures": outcome.figures()} for outcome in outcomes]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")

    for usual in (False, True) if arguments.usual else (False,):
        cases = [
            Case(concurrency, tokens, mean, usual)
            for mean in means
            for tokens in arguments.tokens
            for concurrency in arguments.concurrency
        ]
        _serve_and_run(cases, ways, arguments, usual, note)
    console = Console(width=170)
    for case in dict.fromkeys(outcome.case for outcome in outcomes):
        console.print(table(case, outcomes))
    console.print(f"figures in {arguments.json}")


if __name__ == "__main__":
    main()
