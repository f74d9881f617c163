"""A speaker's prompt as it grows: the JSON of its token ids, in blocks.

A request must not cost more the longer the trajectory is, and serialising 30,000 ids costs more than all the rest of
a request; so the JSON is written once, as ids are added, and is all that is held. Blocks, since one buffer would be
copied for each request and, with thousands of trajectories, would leave memory full of holes as it grows. Knows
nothing of what the ids mean.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

BLOCK = 8192
"""Bytes."""
LAST = 1024
"""Ids that are also held as numbers, at least."""


class TokenBuffer:
    """Implements `Prompt`: the digits of its ids. Grows at the end and can be shortened there."""

    __slots__ = ("_blocks", "_last", "_length", "_open")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._blocks: list[bytes] = []
        self._open = bytearray()
        self._last = array("I")
        self._length = 0
        self.extend(ids)

    @property
    def ids(self) -> Sequence[int]:
        """All token ids, read from their digits: made anew each time."""
        digits = b"".join((*self._blocks, self._open))
        return [int(i) for i in digits.split(b",")[:-1]]

    def __len__(self) -> int:
        return self._length

    def tail(self, count: int) -> Sequence[int]:
        """The last `count` ids, or all; at a cost that depends on these, up to some hundreds."""
        if count <= len(self._last):
            return self._last[len(self._last) - count :]
        return self.ids[-count:]

    def extend(self, ids: Iterable[int]) -> None:
        """Append `ids`."""
        ids = list(ids)
        self._length += len(ids)
        self._last.extend(ids)
        if len(self._last) > 2 * LAST:
            del self._last[:-LAST]
        self._open += b"".join([b"%d," % i for i in ids])
        while len(self._open) > 2 * BLOCK:  # what may still be dropped stays in the open one, as a rule
            self._blocks.append(bytes(self._open[:BLOCK]))
            del self._open[:BLOCK]

    def drop(self, count: int) -> None:
        """Take the last `count` ids away."""
        if count > len(self._last):
            self._last = array("I", self.ids)
        for _ in range(count):
            size = len(b"%d," % self._last.pop())
            if size > len(self._open):
                self._open[:0] = self._blocks.pop()
            del self._open[-size:]
        # The last comma, which is no part of the JSON, is in the open one.
        if self._blocks and not self._open:
            self._open += self._blocks.pop()
        self._length -= count

    def json(self) -> Sequence[bytes]:
        """The ids as a JSON array, in pieces of which only the last is a copy."""
        return (b"[", *self._blocks, bytes(memoryview(self._open)[:-1]), b"]")
