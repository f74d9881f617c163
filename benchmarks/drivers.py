"""Four ways to have the same thinking written by the same two servers: what `alternation` compares.

*tessy* is the package's own `cooperate`, its boundaries where a plan of span lengths says; the *limit* knows every
span's length beforehand and asks for each with one request; *plain* asks each server for as many tokens in one
piece; the *public* algorithm goes round by round over a batch. All of them use tessy's completers, and the same
boundary predictor, whose labels are thrown away: it costs what it costs, and the spans stay as planned.

Knows neither how servers are started nor how figures are shown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tessy.adapters.server import ServerEngine
from tessy.adapters.tokenizer import HFTokenizer
from tessy.core.cooperate import cooperate
from tessy.core.dialogue import RECENT, Limits, Writer
from tessy.core.formats import FORMATS, Thinking
from tessy.core.prompt import TokenBuffer
from tessy.protocols import BoundaryPredictor, Completer, Completion, Mark, Prompt
from tessy.trajectory import WRITES, Label, Speaker

Engines = Mapping[Speaker, ServerEngine]
Spans = Sequence[tuple[Speaker, int]]
"""Who wrote how many tokens, one span after the other."""


class Unending(Thinking):
    """Thinking that nothing ends: lengths are planned, not left to the model."""

    def find_end(self, ids: Sequence[int], ends: Sequence[int], text: str) -> None:
        """It goes on."""

    def unsettled(self, text: str) -> int:
        """There is no marker that could begin."""
        return 0


@dataclass(frozen=True)
class Plan:
    """One thinking to be written: after which prompt, how long, and with spans of which lengths on average."""

    number: int
    prompt: tuple[int, ...]
    tokens: int
    means: Mapping[Speaker, float]

    def lengths(self) -> Iterator[tuple[Speaker, int]]:
        """Spans of geometric length, the student's first, without end: the same ones each time."""
        draws, speaker = random.Random(f"spans {self.number}"), Speaker.STUDENT
        while True:
            length = 1
            while draws.random() > 1 / self.means[speaker]:
                length += 1
            yield speaker, length
            speaker = speaker.other


@dataclass
class Judge:
    """Boundary predictors that are asked and not obeyed; without any, labels cost nothing."""

    predictors: Mapping[Speaker, BoundaryPredictor] | None = None
    seconds: float = 0.0
    """For which trajectories waited."""
    critical: float = 0.0
    """Those of them in which a stream's boundary was found: in the others the server goes on with what is wanted."""

    async def __call__(self, speaker: Speaker, context: str, draft: str) -> float:
        """Have `draft` read; the seconds that took."""
        if self.predictors is None or not draft:
            return 0.0
        started = time.perf_counter()
        await self.predictors[speaker](context[-RECENT:], draft)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        return seconds


@dataclass
class Setting:
    """What all ways share."""

    engines: Engines
    tokenizer: HFTokenizer
    concurrency: int
    chunks: Mapping[Speaker, int]
    judge: Judge = field(default_factory=Judge)


async def crowd(work: Sequence[Callable[[], Awaitable[None]]], concurrency: int) -> None:
    """Do all of it, so much at a time, in this order."""
    waiting = iter(work)

    async def worker() -> None:
        for each in waiting:
            await each()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(work))):
            group.create_task(worker())


# --- tessy ------------------------------------------------------------------------------------------------------


class Script:
    """Completers and predictors of one trajectory, whose boundaries are where its plan says."""

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self._setting = setting
        self._lengths = plan.lengths()
        self.speaker, self.left = next(self._lengths)
        self._ids: Sequence[int] = ()

    def began(self, speaker: Speaker, ids: Sequence[int]) -> None:
        """`speaker` wrote `ids`."""
        if speaker is not self.speaker:
            self.speaker, self.left = next(self._lengths)
        self._ids = ids

    async def boundary(self, context: str, draft: str) -> Sequence[Mark]:
        """One mark where the span is to end, if that is in the draft."""
        seconds = await self._setting.judge(self.speaker, context, draft)
        text, ends = self._setting.tokenizer.offsets((), self._ids)
        before = len(draft) - len(text)  # what had been held back before, less what is held back now
        style = float(WRITES[self.speaker] is Label.STYLE)
        if self.left > len(self._ids):
            self.left -= len(self._ids)
            return [Mark(0, style)]
        at = max(0, before + ends[self.left - 1]) if self.left else 0
        self.left = 0
        self._setting.judge.critical += seconds
        return [Mark(0, style), Mark(at, 1 - style)] if at else [Mark(0, 1 - style)]


@dataclass
class Told:
    """A completer that tells the script what came."""

    complete: Completer
    speaker: Speaker
    script: Script

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        """See `protocols.Completer`."""
        completion = await self.complete(prompt, max_tokens, most)
        self.script.began(self.speaker, completion.ids or ())
        return completion

    def let_go(self) -> None:
        """See `protocols.Completer`."""
        self.complete.let_go()


async def tessy(plans: Sequence[Plan], setting: Setting) -> list[Spans]:
    """`cooperate` on every plan; the spans as they were kept."""
    kept: list[Spans] = [()] * len(plans)
    thinking = Unending(FORMATS["qwen3"], setting.tokenizer)

    async def write(n: int) -> None:
        plan = plans[n]
        script = Script(plan, setting)
        writers = {
            speaker: Writer(
                Told(engine.completer(str(n), seed=None, deadline=None), speaker, script),
                script.boundary,
                setting.tokenizer,
                thinking,
                plan.prompt,
                setting.chunks[speaker],
            )
            for speaker, engine in setting.engines.items()
        }
        response = await cooperate(writers, Limits(plan.tokens, 1_000_000))
        kept[n] = [(span.speaker, span.tokens) for span in response.spans if span.tokens]

    await crowd([lambda n=n: write(n) for n in range(len(plans))], setting.concurrency)  # type: ignore[misc]
    return kept


# --- the two references -----------------------------------------------------------------------------------------


async def limit(
    plans: Sequence[Plan], spans: Sequence[Spans], setting: Setting, *, late: int = 0, ahead: int = 0
) -> list[Spans]:
    """One request for each span, of the length that it is known to have.

    What a way that does not know it cannot do without is told by two more: with `late` tokens more, since that a span
    is over is known by the next one; and as a stream that might have `ahead` tokens more, and is cut off.
    """

    async def write(plan: Plan, planned: Spans) -> None:
        sees = {speaker: TokenBuffer(plan.prompt) for speaker in Speaker}
        completers = {s: e.completer("limit", seed=None, deadline=None) for s, e in setting.engines.items()}
        for speaker, length in planned:
            asked = length + late
            completion = await completers[speaker](sees[speaker], asked, asked + ahead)
            completers[speaker].let_go()
            ids = _all(completion, asked)[:length]
            sees[speaker].extend(ids)
            sees[speaker.other].extend(setting.tokenizer.encode(setting.tokenizer.decode(ids)))

    work = [lambda p=p, s=s: write(p, s) for p, s in zip(plans, spans, strict=True)]
    await crowd(work, setting.concurrency)
    return list(spans)


async def plain(plans: Sequence[Plan], spans: Sequence[Spans], setting: Setting) -> list[Spans]:
    """As many tokens of each speaker, in one piece, in a mixed order, so that both servers have work all the time."""

    async def write(plan: Plan, speaker: Speaker, tokens: int) -> None:
        complete = setting.engines[speaker].completer("plain", seed=None, deadline=None)
        _all(await complete(TokenBuffer(plan.prompt), tokens), tokens)

    jobs = [
        (plan, speaker, sum(length for who, length in planned if who is speaker))
        for plan, planned in zip(plans, spans, strict=True)
        for speaker in Speaker
    ]
    random.Random("plain").shuffle(jobs)
    await crowd([lambda job=job: write(*job) for job in jobs if job[2]], setting.concurrency)  # type: ignore[misc]
    return list(spans)


def _all(completion: Completion, length: int) -> Sequence[int]:
    if completion.ids is None or len(completion.ids) != length:
        raise RuntimeError(
            f"asked for {length} tokens, got {len(completion.ids or ())}: the model ends its turn"
        )
    return completion.ids


# --- the public algorithm ---------------------------------------------------------------------------------------


@dataclass
class Row:
    """One trajectory of the batch."""

    n: int
    plan: Plan
    text: str
    ids: TokenBuffer
    lengths: Iterator[tuple[Speaker, int]]
    completers: Mapping[Speaker, Completer]
    speaker: Speaker = Speaker.STUDENT
    left: int = 0
    draft: str = ""
    kept: list[tuple[Speaker, int]] = field(default_factory=list)

    @property
    def owed(self) -> int:
        """Tokens that are still to be written."""
        return self.plan.tokens - sum(length for _, length in self.kept)


async def public(plans: Sequence[Plan], setting: Setting) -> list[Spans]:
    """Round by round: every draft of the batch, then one predictor over its drafts, then the other, then the cuts.

    As the method's description has the public code: text prompts, a fixed number of tokens a call, a cut extended to
    the next blank. A row that is done makes room for the next question at once, as there.
    """
    rows = iter([_row(n, plan, setting) for n, plan in enumerate(plans)])
    batch: list[Row] = []
    kept: list[Spans] = [()] * len(plans)
    while True:
        batch += [row for _, row in zip(range(setting.concurrency - len(batch)), rows, strict=False)]
        if not batch:
            return kept
        await asyncio.gather(*(_draft(row, setting) for row in batch))
        for speaker in Speaker:
            mine = [row for row in batch if row.speaker is speaker]
            started = time.perf_counter()
            before = setting.judge.seconds
            await asyncio.gather(*(setting.judge(speaker, row.text, row.draft) for row in mine))
            # The whole batch waits, not those alone whose drafts are read.
            setting.judge.seconds = before + (time.perf_counter() - started) * len(batch)
        for row in batch:
            _cut(row, setting.tokenizer)
            kept[row.n] = row.kept
        batch = [row for row in batch if row.owed > 0]


def _row(n: int, plan: Plan, setting: Setting) -> Row:
    lengths = plan.lengths()
    speaker, left = next(lengths)
    completers = {s: e.completer(str(n), seed=None, deadline=None) for s, e in setting.engines.items()}
    return Row(n, plan, "", TokenBuffer(plan.prompt), lengths, completers, speaker, left)


async def _draft(row: Row, setting: Setting) -> None:
    count = min(setting.chunks[row.speaker], row.owed)
    row.draft = (await row.completers[row.speaker](row.ids, count)).text


def _cut(row: Row, tokenizer: HFTokenizer) -> None:
    """Keep what is before the boundary, up to the next blank; a shortened draft is a switch."""
    ids = tokenizer.encode(row.draft)
    keep = len(row.draft)
    if row.left > len(ids):
        row.left -= len(ids)
    else:
        at = tokenizer.offsets((), ids)[1][row.left - 1] if row.left else 0
        keep = next((n for n in range(at, keep) if row.draft[n].isspace()), keep)
        row.left = 0
    kept = row.draft[:keep]
    new = tokenizer.encode(kept)
    row.text = (row.text + kept)[-RECENT:]
    row.ids.extend(new)
    row.kept.append((row.speaker, len(new)))
    if keep < len(row.draft):
        row.speaker, row.left = next(row.lengths)
