"""What the simulated ways share: servers, predictors and processes, work to do, trajectories and their streams.

A trajectory stays with one replica of each model, and knows how much each server has seen of it. Spans have geometric
lengths, drawn by the trajectory's number, so that all ways write the same ones.

Knows neither which way it is (`simulated_ways`) nor real figures (`hardware`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

from simulated_server import Rates, Request, Server
from simulation import Core, Loop, Predictor, Wait, Worker

T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    """Something of the student and of the teacher, whose numbers are 0 and 1."""

    student: T
    teacher: T


@dataclass(frozen=True)
class Costs:
    """Of the orchestrating processes and their predictors, in seconds."""

    token: float = 0.0
    look: float = 0.0
    request: float = 0.0
    net: float = 0.0
    """One way."""
    fixed: float = 0.0
    """Of a predictor, for a batch."""
    each: float = 0.0
    """Of a predictor, for a draft."""
    batch: int = 64
    share: float = 1.0
    """Of a predictor's time, what it takes from the cores that it shares."""


@dataclass(frozen=True)
class Setup:
    """Which servers there are, and what drives them."""

    rates: Pair[Rates]
    """Of one replica."""
    replicas: Pair[int]
    costs: Costs = Costs()
    processes: int = 1
    predictors: int = 1
    """Pairs of them, each with a thread of its own."""
    cores: str = "own"
    """`own`: each engine, API process, orchestrator and predictor computes on something of its own. `each`: a server
    has one core, and what drives them takes time from both, as on the two CPU servers. `one`: both engines on one
    core. `predictor`: own, but predictors compute on the student's devices."""
    same: bool = False
    """One model in both roles: one set of servers, the student's."""


@dataclass(frozen=True)
class Work:
    """What is written. Lengths in tokens."""

    way: str
    """plain, limit, tessy, chunks or public."""
    concurrency: int
    tokens: tuple[int, int]
    """Thinking of a trajectory, from and to."""
    means: Pair[float]
    """Of span lengths."""
    chunks: Pair[int]
    extra: float = 0.0
    """By which a span is longer than drawn, on average: boundaries move to the ends of words."""
    prompt: int = 200
    answer: int = 0
    judged: bool = True
    """Whether predictors are asked."""
    text: bool = False
    """Whether prompts travel as text."""
    trajectories: int | None = None
    """So many, from beginning to end; None: a window of a run without end."""
    warm: float = 20.0
    """Seconds before the window."""
    window: float = 40.0
    seed: int = 7


@dataclass
class Counts:
    """What has happened up to a moment, all servers together."""

    time: float = 0.0
    kept: float = 0.0
    spans: float = 0.0
    requests: float = 0.0
    generated: float = 0.0
    unseen: float = 0.0
    prompted: float = 0.0
    computed: float = 0.0
    preempted: float = 0.0
    student: float = 0.0
    """Busy seconds of the student's devices, and the teacher's, each divided by their number."""
    teacher: float = 0.0
    predictor: float = 0.0
    """Busy share of the predictors; of the orchestrating processes."""
    process: float = 0.0
    api: float = 0.0
    """Busy share of the API processes."""

    def since(self, before: Counts) -> Counts:
        """What happened after `before`."""
        return Counts(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    @property
    def figures(self) -> dict[str, float]:
        """The columns of the tables."""
        return {
            "tok/s": self.kept / self.time,
            "waste": self.generated / self.kept - 1,
            "waste counted": (self.generated - self.unseen) / self.kept - 1,
            "requests/span": self.requests / max(1, self.spans),
            "computed/token": self.computed / self.kept,
            "student": self.student / self.time,
            "teacher": self.teacher / self.time,
            "predictor": self.predictor / self.time,
            "process": self.process / self.time,
            "api": self.api / self.time,
        }


_COUNTED = ("requests", "generated", "unseen", "prompted", "computed", "preempted")


class World:
    """Servers, processes and predictors of a set-up, at work."""

    def __init__(self, setup: Setup, work: Work) -> None:
        self.setup, self.work = setup, work
        self.loop = Loop()
        self.draws = random.Random(work.seed)
        self.kept = self.spans = 0
        self._numbers = count()
        one = Core(self.loop) if setup.cores == "one" else None
        self.servers = Pair(self._servers(0, one), self._servers(1, one))
        shared: Sequence[Core] = ()
        if setup.cores == "each":
            shared = [server.core for servers in self.servers for server in servers]
        readers = [server.core for server in self.servers.student] if setup.cores == "predictor" else shared
        self.processes = [Worker(self.loop, shared) for _ in range(setup.processes)]
        self.predictors = [self._pair(number, readers) for number in range(setup.predictors)]

    def _pair(self, number: int, cores: Sequence[Core]) -> Pair[Predictor]:
        """Predictors that compute on their part of these cores, if they take time from any."""
        costs, every = self.setup.costs, self.setup.predictors
        mine = cores[number::every] or (cores and [cores[number % len(cores)]])
        student, teacher = (
            Predictor(self.loop, costs.fixed, costs.each, costs.batch, mine, costs.share) for _ in (0, 1)
        )
        return Pair(student, teacher)

    def _servers(self, which: int, one: Core | None) -> list[Server]:
        if which and self.setup.same:
            return []
        servers = []
        for _ in range(self.setup.replicas[which]):
            core = one or Core(self.loop)
            servers.append(
                Server(self.loop, self.setup.rates[which], core, [core] if self.setup.cores == "each" else ())
            )
        return servers

    def server(self, number: int, speaker: int) -> Server:
        """The replica at which a trajectory stays."""
        servers = self.servers[0 if self.setup.same else speaker]
        return servers[number % len(servers)]

    def plan(self) -> Trajectory:
        """The next trajectory, from its beginning."""
        return Trajectory(self, next(self._numbers))

    def counts(self) -> Counts:
        """What has happened."""
        servers = [server for servers in self.servers for server in servers]
        workers = [worker for server in servers for worker in server.apis]
        readers = [reader for pair in self.predictors for reader in pair]
        requests, generated, unseen, prompted, computed, preempted = (
            float(sum(getattr(server, name) for server in servers)) for name in _COUNTED
        )
        student, teacher = (_mean([server.core for server in each]) for each in self.servers)
        return Counts(
            self.loop.now,
            self.kept,
            self.spans,
            requests,
            generated,
            unseen,
            prompted,
            computed,
            preempted,
            student,
            teacher,
            _mean(readers),
            _mean(self.processes),
            _mean(workers),
        )


def _mean(things: Sequence[Any]) -> float:
    return sum(thing.busy for thing in things) / len(things) if things else 0.0


class Trajectory:
    """One trajectory: how long it is, who writes how much in turn, and what each server has seen of it."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        work = world.work
        # By its number, so that all ways write the same trajectories.
        self._draws = random.Random(f"{work.seed} {number}")
        self.left = self._draws.randint(*work.tokens)
        self.length = work.prompt
        self._seen: dict[int, int] = {}
        self._server: Server | None = None
        self.process = world.processes[number % len(world.processes)]

    def age(self, speakers: Sequence[int]) -> None:
        """Let it be anywhere between its beginning and its end, its text in the caches of these speakers."""
        passed = self._draws.randrange(self.left)
        self.left -= passed
        self.length += passed
        for speaker in speakers:
            server = self.world.server(self.number, speaker)
            server.cache.hold(self.number, self.length)
            self._seen[id(server)] = self.length

    def spans(self) -> Iterator[tuple[int, int]]:
        """Who writes, and how much until the next boundary; the student first, without end."""
        while True:
            for speaker, mean in enumerate(self.world.work.means):
                length = 1
                while self._draws.random() > 1 / mean:
                    length += 1
                self.world.spans += 1
                yield speaker, length

    def extra(self) -> int:
        """Tokens by which a boundary moves on."""
        extra = self.world.work.extra
        return int(extra) + (self._draws.random() < extra % 1)

    def part(self, speaker: int) -> int:
        """How much one of the two would write of all that is left."""
        student, teacher = self.world.work.means
        extra = self.world.work.extra
        mine = round(self.left * (student + extra) / (student + teacher + 2 * extra))
        return self.left - mine if speaker else mine

    def ask(self, speaker: int, most: int, look: int, tell: Callable[[int], None]) -> Request:
        """Ask `speaker`'s server to go on from here."""
        self._server = server = self.world.server(self.number, speaker)
        request = Request(
            self.number,
            self.length,
            self._seen.get(id(server), 0),
            most,
            look,
            tell,
            self.world.work.text,
        )
        self.world.loop.after(self.world.setup.costs.net, lambda: server.ask(request))
        return request

    def stop(self, speaker: int, request: Request) -> None:
        """Close a stream."""
        server = self.world.server(self.number, speaker)
        self.world.loop.after(self.world.setup.costs.net, lambda: server.stop(request))

    def keep(self, tokens: int) -> None:
        """These are kept, of what the server that was asked last wrote."""
        self.left -= tokens
        self.length += tokens
        self.world.kept += tokens
        self._seen[id(self._server)] = self.length

    def orchestrate(self, seconds: float) -> Wait:
        """Its process does something."""
        return lambda resume: self.process.do(seconds, lambda: resume(None))

    def judge(self, speaker: int) -> Wait:
        """Its process' predictor reads a draft."""
        pair = self.world.predictors[self.number % len(self.world.predictors)]
        return lambda resume: pair[speaker].read(lambda: resume(None))

    def complete(self, speaker: int, most: int) -> Wait:
        """One request that is answered in one piece."""

        def begin(resume: Callable[[Any], None]) -> None:
            net = self.world.setup.costs.net
            self.ask(speaker, most, 0, lambda drawn: self.world.loop.after(net, lambda: resume(drawn)))

        return begin


class Stream:
    """A turn's stream, as its reader sees it."""

    def __init__(self, trajectory: Trajectory, speaker: int, most: int, look: int) -> None:
        self._trajectory, self._speaker = trajectory, speaker
        self._come = self._taken = self._wanted = 0
        self._resume: Callable[[Any], None] | None = None
        self.most = most
        self._request = trajectory.ask(speaker, most, look, self._told)

    @property
    def exhausted(self) -> bool:
        """All that it was opened for has been taken."""
        return self._taken >= self.most

    def take(self, tokens: int) -> Wait:
        """The next tokens."""

        def begin(resume: Callable[[Any], None]) -> None:
            self._taken += tokens
            self._resume = resume
            self._check()

        return begin

    def close(self) -> None:
        """Stop it, if it is not at its end."""
        if self._come < self.most:
            self._trajectory.stop(self._speaker, self._request)

    def _told(self, drawn: int) -> None:
        def arrive() -> None:
            self._come = max(self._come, drawn)
            self._check()

        world = self._trajectory.world
        world.loop.after(world.setup.costs.net, arrive)

    def _check(self) -> None:
        if self._resume is not None and self._come >= self._taken:
            resume, self._resume = self._resume, None
            resume(None)
