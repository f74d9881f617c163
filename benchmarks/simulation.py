"""Simulated time, and what takes it: cores, workers that do one thing after the other, predictors that read in batches.

Processes are generators that yield what they wait for. Between two events nothing changes, so a run costs time in
proportion to what happens, not to tokens.

Pure: no clock, no files, no randomness. Knows neither servers (`simulated_server`) nor who writes what
(`simulated_world`, `simulated_ways`) nor real figures (`hardware`). Times are in seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from itertools import count
from math import inf
from typing import Any

Do = Callable[[], None]
Wait = Callable[[Callable[[Any], None]], None]
"""What a process yields: a thing to begin, which calls back with what the process is to go on with."""
Process = Generator[Wait, Any, None]


class Loop:
    """Simulated time: what is to happen when, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Do]] = []
        self._number = count()

    def at(self, time: float, do: Do) -> None:
        """Have it done then, or now if that is past."""
        heapq.heappush(self._events, (max(time, self.now), next(self._number), do))

    def after(self, seconds: float, do: Do) -> None:
        """Have it done in so many seconds."""
        self.at(self.now + seconds, do)

    def run(self, until: float = inf) -> None:
        """Go on until nothing is left to happen, or until that time."""
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
        if until < inf:
            self.now = until


def start(process: Process) -> None:
    """Let a process go until it is done: each thing that it yields calls it back."""

    def go_on(value: Any) -> None:
        try:
            begin = process.send(value)
        except StopIteration:
            return
        begin(go_on)

    go_on(None)


class Core:
    """A device or a core: iterations share it evenly, short work comes first and makes them longer."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._left: dict[int, float] = {}
        self._done: dict[int, Do] = {}
        self._number = count()
        self._plan = 0
        self._since = 0.0
        self._short_until = 0.0
        self.busy = 0.0
        """Seconds in which an iteration was under way."""

    @property
    def idle(self) -> bool:
        """Nothing is computed on it."""
        return not self._left and self._short_until <= self._loop.now

    def run(self, seconds: float, done: Do) -> None:
        """Compute an iteration."""
        self._settle()
        number = next(self._number)
        self._left[number] = seconds + max(0.0, self._short_until - self._loop.now)
        self._done[number] = done
        self._again()

    def take(self, seconds: float) -> None:
        """Spend time on something short."""
        self._settle()
        if not self._left:
            self._short_until = max(self._short_until, self._loop.now) + seconds
            return
        for number in self._left:
            self._left[number] += seconds / len(self._left)
        self._again()

    def _settle(self) -> None:
        passed = self._loop.now - self._since
        self._since = self._loop.now
        if self._left:
            self.busy += passed
            each = passed / len(self._left)
            for number in self._left:
                self._left[number] -= each

    def _again(self) -> None:
        number = min(self._left, key=self._left.__getitem__)
        self._plan += 1
        plan = self._plan
        self._loop.after(
            max(0.0, self._left[number]) * len(self._left),
            lambda: self._end(number) if plan == self._plan else None,
        )

    def _end(self, number: int) -> None:
        self._settle()
        del self._left[number]
        done = self._done.pop(number)
        if self._left:
            self._again()
        done()


class Worker:
    """A thread that does one thing after the other, on a core of its own or at the cost of others."""

    def __init__(self, loop: Loop, cores: Sequence[Core] = (), share: float = 1.0) -> None:
        self._loop, self._cores, self._share = loop, cores, share
        self._free = 0.0
        self.busy = 0.0

    def do(self, seconds: float, then: Do | None = None) -> None:
        """Do something that takes so long, after all that it has to do already."""
        self.busy += seconds
        self._free = max(self._free, self._loop.now) + seconds
        if self._cores and seconds:
            idle = [core for core in self._cores if core.idle][:1] or self._cores
            for core in idle:
                core.take(self._share * seconds / len(idle))
        if then is not None:
            self._loop.at(self._free, then)


class Predictor:
    """Reads what waits in batches: `fixed` seconds a batch and `each` for every draft."""

    def __init__(
        self,
        loop: Loop,
        fixed: float,
        each: float,
        most: int = 64,
        cores: Sequence[Core] = (),
        share: float = 1.0,
    ) -> None:
        """`share`: of its time, what it takes from the `cores`."""
        self._worker = Worker(loop, cores, share)
        self._fixed, self._each, self._most = fixed, each, most
        self._waiting: deque[Do] = deque()
        self._reading = False
        self.looks = 0

    @property
    def busy(self) -> float:
        """Seconds in which it was reading."""
        return self._worker.busy

    def read(self, then: Do) -> None:
        """Read a draft, with what else waits."""
        self._waiting.append(then)
        if not self._reading:
            self._next()

    def _next(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        self._reading = bool(batch)
        self.looks += len(batch)

        def read() -> None:
            self._next()
            for then in batch:
                then()

        if batch:
            self._worker.do(self._fixed + self._each * len(batch), read)
