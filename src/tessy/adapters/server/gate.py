"""How many requests may be in flight to one server, and who is next.

`AdaptiveLimit` decides the number from what happened (additive increase, multiplicative decrease), told the time;
`Gate` lets requests through it in the order they came. Neither knows what a request is.
"""

from __future__ import annotations

import asyncio
from collections import deque

FAST, SLOW = 0.2, 0.01
"""Weights of the two moving averages of the pace."""
TOO_SLOW = 3.0
"""The fast average over the slow one, from which a server counts as slowing down."""


class AdaptiveLimit:
    """A limit from 1 to `most`: halved by an overload, lowered gently by a slow-down, raised by success.

    Lowered at most once per round trip: what was already in flight at the last lowering says nothing about it.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"a limit must be at least 1, not {most}")
        self.most = most
        self._limit = float(most)
        self._lowered = float("-inf")
        self._fast = self._slow = 0.0

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    def overloaded(self, started: float, now: float) -> None:
        """A request sent at `started` met a 429, a 503 or a timeout at `now` (seconds of one clock)."""
        self._lower(0.5, started, now)

    def succeeded(self, started: float, now: float, work: float, in_flight: int) -> None:
        """A request of `work` (any unit) succeeded, with `in_flight` requests when it ended.

        One round trip of successes raises the limit by 1. The pace is watched only where at least half of the limit is
        used: a server is slower with 64 requests than with 2, and that is no slow-down.
        """
        self._limit = min(self.most, self._limit + 1 / self._limit)
        if 2 * in_flight < self._limit:
            return
        pace = (now - started) / work
        if not self._slow:
            self._fast = self._slow = pace
        self._fast += FAST * (pace - self._fast)
        self._slow += SLOW * (pace - self._slow)
        if self._fast > TOO_SLOW * self._slow:
            self._lower(0.9, started, now)

    def _lower(self, factor: float, started: float, now: float) -> None:
        if started >= self._lowered:
            self._limit = max(1.0, self._limit * factor)
            self._lowered = now


class Gate:
    """Admits requests in the order they came, as many at a time as its limit says. O(1) for each."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return self._limit.limit

    async def enter(self) -> None:
        """Wait for a place; whoever returns from here must `leave`. Cancelling gives the place on."""
        if not self._waiting and self.in_flight < self._limit.limit:
            self.in_flight += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # admitted in the same turn of the loop
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place up."""
        self.in_flight -= 1
        self._admit()

    def succeeded(self, started: float, now: float, work: float) -> None:
        """A request that is still in flight here succeeded (see `AdaptiveLimit`)."""
        self._limit.succeeded(started, now, work, self.in_flight)

    def overloaded(self, started: float, now: float) -> None:
        """A request that is still in flight here met a server in trouble (see `AdaptiveLimit`)."""
        self._limit.overloaded(started, now)

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self._limit.limit:
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)
