"""What the simulation has to know of the CPU servers of `alternation`, measured with a few minutes of requests.

Differences of runs that differ in one thing: more tokens, more rows, a longer prompt, streamed or not, text or ids.
What an engine's iteration takes is told by the clock, what a request or an event takes besides by the CPU time of the
process that takes requests: the clock of a request that is alone is mostly waiting, in which vLLM's workers spin. Two
servers are asked for the same at the same time: two cores that both compute are slower than one of them is. What is
asked goes through a `Probe`, so that the sums can be checked against a simulated server. Writes the JSON that
`simulate.py --calibration` reads; run it on a quiet machine.

    python benchmarks/calibrate.py [--quick] [--greedy] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import psutil

import vllm_servers
from hardware import CPU
from stand_ins import HIDDEN, LAYERS, random_predictor, unending_model

SHORT, CACHED, LONG = 16, 33, 2977
"""Tokens of a prompt: a usual one; whole cache blocks of 32 and one token, which is all that is computed of it."""
DEEP = 2048
"""Tokens of a context that is far longer than a usual one."""
TURN = 80
"""Tokens of a prompt that is as much longer than a usual one as a turn may have new ones."""


@dataclass(frozen=True)
class Ask:
    """One completion: prompts of the same key begin alike, so that the later one is found in the cache."""

    key: str
    prompt: int
    tokens: int
    stream: bool = False
    text: bool = False


class Took(NamedTuple):
    """Seconds."""

    clock: float
    """Until the last of it was done."""
    api: float
    """Of the process that takes requests, on its CPU."""


Probe = Callable[[Sequence[Ask]], Took]
"""Ask for all of it at once."""


@dataclass(frozen=True)
class Effort:
    """How much is asked for."""

    rows: Sequence[int] = (1, 4, 16, 32, 64)
    tokens: int = 48
    rounds: int = 80
    repeats: int = 3


QUICK = Effort((1, 4, 8), 12, 5, 1)


class Calibration:
    """The sums, over whatever answers a probe."""

    def __init__(self, probe: Probe, effort: Effort) -> None:
        self._probe, self._effort = probe, effort
        self._keys = 0
        self.steps: dict[int, float] = {}
        """Seconds of an iteration by its rows, once `figures` were measured."""

    def figures(self) -> dict[str, float]:
        """What `hardware.cpu` takes, as far as a server says."""
        self.steps = {rows: self.step(rows) for rows in self._effort.rows}
        fixed, each = line(list(self.steps), list(self.steps.values()))
        token = self.token()
        most = max(self._effort.rows[:3])
        return {
            "fixed": fixed,
            "token": token,
            "row": max(0.0, each - token),
            "kv": self.kv(most),
            **self.requests(),
            "event": self.event(most),
        }

    def step(self, rows: int) -> float:
        """An iteration with so many rows that draw a token."""
        keys = self._cached(rows, SHORT)
        return self._median(lambda: self._iteration(keys, SHORT))

    def kv(self, rows: int) -> float:
        """What a token of the context adds to an iteration: with so many rows, long and short ones in turn."""
        long, short = self._cached(rows, DEEP), self._cached(rows, SHORT)
        more = self._median(lambda: self._iteration(long, DEEP) - self._iteration(short, SHORT))
        return max(0.0, more / (rows * (DEEP - SHORT)))

    def _cached(self, rows: int, prompt: int) -> list[str]:
        keys = [self._key() for _ in range(rows)]
        self._probe([Ask(key, prompt, 1) for key in keys])
        return keys

    def _iteration(self, keys: Sequence[str], prompt: int) -> float:
        """From a run of more tokens and one of fewer."""
        few, more = 4, 4 + self._effort.tokens
        slow, quick = (self._probe([Ask(key, prompt, tokens) for key in keys]) for tokens in (more, few))
        return (slow.clock - quick.clock) / (more - few)

    def token(self) -> float:
        """Computing one token of a prompt: from prompts that nobody has seen, as short as what is new in a turn."""
        return self._median(
            lambda: (
                self._probe([Ask(self._key(), TURN, 1)]).clock
                - self._probe([Ask(self._key(), SHORT, 1)]).clock
            ),
            self._effort.rounds,
        ) / (TURN - SHORT)

    def requests(self) -> dict[str, float]:
        """CPU of requests that are alone, whose prompts are in the cache: one token each, of one kind of them more.

        In turn, since a machine has quick and slow minutes.
        """
        more = 10
        asks = {
            "short": Ask(self._key(), CACHED, 1),
            "more": Ask(self._key(), CACHED, 1 + more),
            "long": Ask(self._key(), LONG, 1),
            "text": Ask(self._key(), LONG, 1, text=True),
        }
        for ask in asks.values():
            self._probe([ask])
        took = [
            {kind: self._probe([ask]).api for kind, ask in asks.items()} for _ in range(self._effort.rounds)
        ]
        short, drawn, long, text = (mean(each[kind] for each in took) for kind in asks)
        prompt = max(0.0, (long - short) / (LONG - CACHED))
        return {
            "request": max(0.0, short - (drawn - short) / more - CACHED * prompt),
            "prompt": prompt,
            "text": max(0.0, (text - long) / LONG),
        }

    def event(self, rows: int) -> float:
        """What telling a token at once takes more than telling it at the end."""
        keys = [self._key() for _ in range(rows)]

        def api(stream: bool) -> float:
            return self._probe([Ask(key, SHORT, self._effort.tokens, stream) for key in keys]).api

        api(True)
        return max(0.0, self._median(lambda: api(True) - api(False)) / (rows * self._effort.tokens))

    def _median(self, measure: Callable[[], float], times: int | None = None) -> float:
        return median(measure() for _ in range(times or self._effort.repeats))

    def _key(self) -> str:
        self._keys += 1
        return f"calibration {self._keys}"


def line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Least squares of the relative errors: where it begins, at least at 0, and how it rises."""
    weights = [1 / max(abs(y), 1e-9) ** 2 for y in ys]
    mean_x, mean_y = (
        sum(weight * each for weight, each in zip(weights, values, strict=True)) / sum(weights)
        for values in (xs, ys)
    )
    slope = sum(
        weight * (x - mean_x) * (y - mean_y) for weight, x, y in zip(weights, xs, ys, strict=True)
    ) / sum(weight * (x - mean_x) ** 2 for weight, x in zip(weights, xs, strict=True))
    return max(0.0, mean_y - slope * mean_x), slope


# --- a real server ----------------------------------------------------------------------------------------------


class Http:
    """A probe of servers that speak the completions API: all are asked at once, and the mean of their times counts."""

    def __init__(
        self, urls: Mapping[str, str], sampling: Mapping[str, float], processes: Sequence[psutil.Process] = ()
    ) -> None:
        """`urls`: of each model, by its name. `processes`: of the servers, those that take requests."""
        self._urls, self._sampling, self._apis = urls, sampling, processes

    def __call__(self, asks: Sequence[Ask]) -> Took:
        """See `Probe`."""
        before = self._cpu()
        clock = asyncio.run(self._all(asks))
        return Took(clock, self._cpu() - before)

    def _cpu(self) -> float:
        """Seconds, the mean of the servers."""
        return sum(sum(process.cpu_times()[:2]) for process in self._apis) / len(self._urls)

    async def _all(self, asks: Sequence[Ask]) -> float:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(900)) as session:
            return mean(await asyncio.gather(*(self._at(session, model, asks) for model in self._urls)))

    async def _at(self, session: aiohttp.ClientSession, model: str, asks: Sequence[Ask]) -> float:
        bodies = [self.body(ask, model) for ask in asks]
        started = time.perf_counter()
        await asyncio.gather(*(self._one(session, self._urls[model], body) for body in bodies))
        return time.perf_counter() - started

    def body(self, ask: Ask, model: str) -> dict[str, Any]:
        """What is sent: the same prompt for the same key, as far as it goes."""
        draws = random.Random(ask.key)
        prompt = [draws.randrange(1000, 40_000) for _ in range(ask.prompt)]
        return {
            "model": model,
            "prompt": " ".join("abcdefgh"[n % 8] for n in prompt) if ask.text else prompt,
            "max_tokens": ask.tokens,
            "stream": ask.stream,
            "return_token_ids": True,
            **self._sampling,
        }

    async def _one(self, session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> None:
        async with session.post(f"{url}/completions", json=body) as reply:
            reply.raise_for_status()
            async for _ in reply.content:
                pass


async def ahead(url: str, model: str, sampling: Mapping[str, float]) -> float:
    """Tokens that a server draws after a stream has been closed, on average."""
    before = vllm_servers.metrics(url).generated_tokens
    body = Http({model: url}, sampling).body(Ask("ahead", SHORT, 400, stream=True), model)
    times, read = 8, 5
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            async with session.post(f"{url}/completions", json=body) as reply:
                events = 0
                async for content in reply.content:
                    events += content.startswith(b"data:")
                    if events == read:
                        break
                reply.close()
            await asyncio.sleep(1)
    return (vllm_servers.metrics(url).generated_tokens - before) / times - read


async def predictor(folder: Path, looks: int) -> dict[str, float]:
    """What a boundary predictor takes for a batch and for each draft, the text growing as it does in a run."""
    from tessy.adapters.predictors import TokenClassifier

    classifier = TokenClassifier(str(folder), device="cpu", runtime="onnx")
    words = (
        "and",
        "then",
        "the",
        "next",
        "number",
        "of",
        "a",
        "list",
        "is",
        "larger",
        "than",
        "before",
        "so",
    )

    async def seconds(batch: int) -> float:
        draws = random.Random(batch)
        texts = [" ".join(draws.choices(words, k=170)) for _ in range(batch)]
        times = []
        for _ in range(looks):
            drafts = [" " + " ".join(draws.choices(words, k=6)) for _ in texts]
            started = time.perf_counter()
            await asyncio.gather(*(classifier(*pair) for pair in zip(texts, drafts, strict=True)))
            times.append(time.perf_counter() - started)
            texts = [text + draft for text, draft in zip(texts, drafts, strict=True)]
        return median(times)

    try:
        await seconds(2)
        batches = (1, 4, 16, 32)
        fixed, each = line(batches, [await seconds(batch) for batch in batches])
    finally:
        await classifier.close()
    return {"predictor.fixed": fixed, "predictor.each": each}


def _listening(url: str) -> psutil.Process:
    """Our process that answers there."""
    port = urlsplit(url).port
    for process in psutil.Process().children():
        if any(at.laddr.port == port and at.status == psutil.CONN_LISTEN for at in process.net_connections()):
            return process
    raise RuntimeError(f"none of our processes answers at {url}")


def main() -> None:
    """Start two servers, a core each, measure both at once, write the figures."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="does it work?")
    parser.add_argument("--greedy", action="store_true", help="instead of the public code's sampling")
    parser.add_argument("--json", type=Path, default=Path("runs/calibration.json"))
    arguments = parser.parse_args()
    sampling = (
        {"temperature": 0.0}
        if arguments.greedy
        else {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}
    )
    vllm_servers.make_environment()
    home = vllm_servers.HOME / "calibration"
    model = unending_model(home / "model")
    random_predictor(home / "predictor", model, LAYERS, HIDDEN, 0)
    folders = {"one": model, "other": model}
    with vllm_servers.serve(folders, home / "logs", flags=vllm_servers.COMPILED) as urls:
        probe = Http(urls, sampling, [_listening(url) for url in urls.values()])
        probe([Ask("warm", SHORT, 4), Ask("warm, streamed", SHORT, 4, stream=True)])
        calibration = Calibration(probe, QUICK if arguments.quick else Effort())
        measured = calibration.figures()
        after = asyncio.run(ahead(urls["one"], "one", sampling))
    measured |= asyncio.run(predictor(home / "predictor", 5 if arguments.quick else 40))
    print("iterations, ms by rows:", {rows: round(1e3 * each, 1) for rows, each in calibration.steps.items()})
    for name, value in measured.items():
        print(f"{name:16} {1e3 * value:10.4f} ms   ({1e3 * CPU[name]:.4f} without calibration)")
    print(f"tokens drawn after a close: {after:.1f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"figures in {arguments.json}")


if __name__ == "__main__":
    main()
