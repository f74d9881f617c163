"""The ways of `alternation` in simulated time: what each of them asks of the servers, and what comes of it.

*plain*, the *limit*, *tessy* (streams, the predictor looking every k tokens while the server goes on), *chunks* (a
request for each chunk) and *public* (lock-step rounds over a batch, text prompts). Spans have geometric lengths; a
boundary is seen by the look in whose chunk the span's next token lies, as in `cut`: a draft that ends with the span is
no switch.

Either a run from its beginning to its end, as `alternation` measures it, or a window of a run that has been going on
for ever: trajectories begin at any age, their text in the caches. Seeded: the same figures each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from simulated_world import Counts, Setup, Stream, Trajectory, Work, World
from simulation import Process, Wait, start

TWINS = 1 << 20
"""Above the numbers of trajectories: those of their other parts, in plain."""
AHEAD_TOKENS, AHEAD_CHUNKS = 512, 8
"""What a stream is opened for: tessy.adapters.server.engine has the same."""


def ahead(chunk: int, most: int) -> int:
    """Tokens that a stream is opened for, of `most` that the turn may have."""
    bound = max(AHEAD_TOKENS, AHEAD_CHUNKS * chunk)
    return most if most <= bound else bound - bound % chunk


def tessy(trajectory: Trajectory) -> Process:
    """Streams; the predictor looks every k tokens while the server goes on."""
    yield from _alternate(trajectory, True)


def chunks(trajectory: Trajectory) -> Process:
    """A request for each chunk."""
    yield from _alternate(trajectory, False)


def _alternate(trajectory: Trajectory, streamed: bool) -> Process:
    work, costs = trajectory.world.work, trajectory.world.setup.costs
    for speaker, span in trajectory.spans():
        chunk, stream = work.chunks[speaker], None
        while trajectory.left:
            draft = min(chunk, trajectory.left)
            if not streamed:
                yield trajectory.orchestrate(costs.request)
                yield trajectory.complete(speaker, draft)
            else:
                if stream is None or stream.exhausted:
                    yield trajectory.orchestrate(costs.request)
                    stream = Stream(trajectory, speaker, ahead(chunk, trajectory.left), chunk)
                yield stream.take(draft)
            yield trajectory.orchestrate(costs.look + costs.token * draft)
            if work.judged:
                yield trajectory.judge(speaker)
            switch = span < draft
            trajectory.keep(min(draft, span + trajectory.extra()) if switch else draft)
            span -= draft
            if switch:
                break
        if stream is not None:
            stream.close()
        if not trajectory.left:
            return


def limit(trajectory: Trajectory) -> Process:
    """One request a span, of the length that it is known to have."""
    costs = trajectory.world.setup.costs
    for speaker, span in trajectory.spans():
        tokens = min(span + trajectory.extra(), trajectory.left)
        yield trajectory.orchestrate(costs.request)
        yield trajectory.complete(speaker, tokens)
        yield trajectory.orchestrate(costs.look + costs.token * tokens)
        trajectory.keep(tokens)
        if not trajectory.left:
            return


def piece(trajectory: Trajectory, speaker: int, tokens: int) -> Process:
    """So many tokens of one speaker, in one piece: plain, and the student's answer."""
    costs = trajectory.world.setup.costs
    if tokens:
        yield trajectory.orchestrate(costs.request)
        yield trajectory.complete(speaker, tokens)
        yield trajectory.orchestrate(costs.look + costs.token * tokens)
        trajectory.keep(tokens)


def _all(waits: Sequence[Wait]) -> Wait:
    """All of them at once; goes on when the last is done."""

    def begin(resume: Callable[[Any], None]) -> None:
        left = len(waits)

        def done(_: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                resume(None)

        for wait in waits:
            wait(done)

    return begin


@dataclass
class _Row:
    trajectory: Trajectory
    spans: Iterator[tuple[int, int]]
    speaker: int = 0
    span: int = 0
    draft: int = 0


def public(batch: Sequence[Trajectory], more: Iterator[Trajectory]) -> Process:
    """Round by round: all drafts, the student's predictor over its own, then the teacher's, then the cuts."""
    fresh = map(_row, more)
    places: list[_Row | None] = [_row(trajectory) for trajectory in batch]
    while rows := [row for row in places if row is not None]:
        world = rows[0].trajectory.world
        work, costs = world.work, world.setup.costs
        for row in rows:
            row.draft = min(work.chunks[row.speaker], row.trajectory.left)
        yield rows[0].trajectory.orchestrate(costs.request * len(rows))
        yield _all([row.trajectory.complete(row.speaker, row.draft) for row in rows])
        yield rows[0].trajectory.orchestrate(sum(costs.look + costs.token * row.draft for row in rows))
        for speaker in (0, 1):
            mine = [row.trajectory.judge(speaker) for row in rows if row.speaker == speaker]
            if mine and work.judged:
                yield _all(mine)
        for row in rows:
            _cut(row)
        for row in rows:
            if not row.trajectory.left:
                start(piece(row.trajectory, 0, work.answer))
        places = [row if row.trajectory.left else next(fresh, None) for row in rows]


def _row(trajectory: Trajectory) -> _Row:
    spans = trajectory.spans()
    speaker, span = next(spans)
    return _Row(trajectory, spans, speaker, span)


def _cut(row: _Row) -> None:
    switch = row.span < row.draft
    row.trajectory.keep(min(row.draft, row.span + row.trajectory.extra()) if switch else row.draft)
    row.span -= row.draft
    if switch:
        row.speaker, row.span = next(row.spans)


# --- a run, a window --------------------------------------------------------------------------------------------


def simulate(setup: Setup, work: Work) -> Counts:
    """Do the work; what happened in all of it, or in the window."""
    world = World(setup, work)
    trajectories = _supply(world)
    if work.way == "public":
        start(public(list(islice(trajectories, work.concurrency)), trajectories))
    else:
        jobs = _jobs(world, trajectories)
        for _ in range(work.concurrency):
            start(_slot(jobs))
    if work.trajectories is not None:
        world.loop.run()
        return world.counts()
    world.loop.run(work.warm)
    before = world.counts()
    world.loop.run(work.warm + work.window)
    counts = world.counts().since(before)
    if work.way == "plain":
        # Its pieces are kept when they end, which may be long after the window.
        counts.kept = counts.generated
    return counts


def _supply(world: World) -> Iterator[Trajectory]:
    """So many trajectories as are wanted; of a window, the first ones are of any age."""
    work = world.work
    for number in count():
        if number == work.trajectories:
            return
        trajectory = world.plan()
        if work.trajectories is None and number < work.concurrency and work.way != "plain":
            trajectory.age((0, 1))
        yield trajectory


def _jobs(world: World, trajectories: Iterator[Trajectory]) -> Iterator[Process]:
    """What slots do, one after the other."""
    if world.work.way == "plain":
        yield from _parts(world, trajectories)
        return
    way = {"tessy": tessy, "chunks": chunks, "limit": limit}[world.work.way]
    for trajectory in trajectories:
        yield _whole(way, trajectory)


def _whole(way: Callable[[Trajectory], Process], trajectory: Trajectory) -> Process:
    yield from way(trajectory)
    yield from piece(trajectory, 0, trajectory.world.work.answer)


def _parts(world: World, trajectories: Iterator[Trajectory]) -> Iterator[Process]:
    """The student's and the teacher's part of every trajectory and the answer, in a mixed order.

    Of a run all of them; of a window first parts of any age, long ones more often, then part after part.
    """
    work, draws = world.work, world.draws
    if work.trajectories is None:
        shares = (work.means.student, work.means.teacher)
        for trajectory, speaker in zip(
            islice(trajectories, work.concurrency),
            draws.choices((0, 1), shares, k=work.concurrency),
            strict=True,
        ):
            trajectory.left = trajectory.part(speaker)
            trajectory.age((speaker,))
            yield piece(trajectory, speaker, trajectory.left)
    parts = []
    for trajectory in trajectories:
        student, teacher = trajectory.part(0), trajectory.part(1)
        parts += [(trajectory, 0, student)]
        for again, (speaker, tokens) in enumerate(((1, teacher), (0, work.answer)), 1):
            parts.append((Trajectory(world, trajectory.number + again * TWINS), speaker, tokens))
        if work.trajectories is None:
            draws.shuffle(parts)
            yield from (piece(*part) for part in parts)
            parts = []
    draws.shuffle(parts)
    yield from (piece(*part) for part in parts)


def _slot(jobs: Iterator[Process]) -> Process:
    for job in jobs:
        yield from job
