"""A speaker's prompt as it grows: token ids and, kept beside them, their JSON.

A request must not cost more the longer the trajectory is, and serialising 30,000 ids costs more than all the rest of
a request; so the JSON is written once, as ids are added. Knows nothing of what the ids mean.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence


class TokenBuffer:
    """Implements `Prompt`: 4 bytes an id, and its digits. Grows at the end and can be shortened there."""

    __slots__ = ("_digits", "_ids")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids = array("I")
        self._digits = bytearray()
        self.extend(ids)

    @property
    def ids(self) -> Sequence[int]:
        """All token ids. A view of the buffer's own array: read it, do not hold it across an `extend`."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Append `ids`."""
        ids = list(ids)
        self._ids.extend(ids)
        self._digits += b"".join(b"%d," % i for i in ids)

    def drop(self, count: int) -> None:
        """Take the last `count` ids away."""
        for _ in range(count):
            del self._digits[-len(b"%d," % self._ids.pop()) :]

    def json(self) -> bytes:
        """The ids as a JSON array: one copy of the digits, no serialisation."""
        return b"".join((b"[", memoryview(self._digits)[:-1], b"]"))
