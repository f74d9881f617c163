"""Buffers for the keys and values of many texts, one place for each, and whose each place is.

A text stays until nobody holds its strand, or until another one needs the room and it is the one that was longest
unused; so the room is bounded whatever happens. Refuses to know models: what is put down is layers of keys and values.
Not safe to use from two threads at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from tessy.errors import ModelError

try:
    import torch
except ImportError as error:
    raise ModelError("a model in this process needs torch: pip install 'tessy[local]'") from error

STEP = 256
"""Tokens by which places grow, since growing copies."""
STACK_BYTES = 2**28
"""Most bytes of buffers that are one piece of memory, which is there twice while it grows."""


class Strand:
    """What is known of one text. Whoever holds it owns the place; it is free when nobody does."""

    __slots__ = ("__weakref__", "ids", "place", "used")

    def __init__(self) -> None:
        self.ids: list[int] = []
        """The tokens that were read, whose keys and values are there."""
        self.place = -1
        """Its row of the buffers; -1: none."""
        self.used = 0
        """When it was read last, by the count of `Places`."""

    def recall(self, ids: Sequence[int]) -> int:
        """How many tokens at the beginning of `ids` need not be read again; whatever else was read is forgotten.

        The last one always has to be: what comes after it is what is asked for.
        """
        known = min(common(self.ids, ids), max(0, len(ids) - 1))
        del self.ids[known:]
        return known


_Stack = tuple[str, int, int, int]
"""Keys or values, heads, size of a head, first layer."""


class Places:
    """Rows of `width` tokens, in a buffer of [rows, heads, width, size of a head] for each layer's keys and values."""

    def __init__(self, limit: int, layers: int) -> None:
        """At most `limit` tokens, over all rows, filled or not, for each of `layers` layers."""
        self.limit = limit
        """Most tokens."""
        self._clock = 0
        self._owners: list[weakref.ref[Strand] | None] = []
        self.width = 0
        self._count = layers
        # Buffers of several layers, [layers, rows, heads, width, size]: to move a text in all of them is one copy.
        self._stacks: dict[_Stack, torch.Tensor] = {}
        # Each layer's part of them, which every forward asks for and which is a call of torch to cut out.
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def rows(self) -> int:
        """Texts that there is room for now."""
        return len(self._owners)

    @property
    def strands(self) -> list[Strand]:
        """The texts that somebody still holds, by place."""
        return [strand for owner in self._owners if owner and (strand := owner())]

    def clear(self) -> None:
        """Forget all texts and free the buffers."""
        self._evict(self.strands)
        self._owners, self.width = [], 0
        self._stacks.clear()
        self._layers.clear()

    def note(self, strand: Strand, new: Sequence[int]) -> None:
        """`new` was read: its keys and values are there."""
        self._clock += 1
        strand.ids += new
        strand.used = self._clock

    def reserve(self, strands: Sequence[Strand], tokens: int) -> None:
        """Give each of `strands` room for `tokens` tokens; other texts go for that, the longest unused first.

        `len(strands) * tokens` must be within the limit.
        """
        if tokens <= self.width and all(strand.place >= 0 for strand in strands):
            return
        width = self.width if tokens <= self.width else place_width(tokens)
        if len(strands) * width > self.limit:
            width = tokens
        most = self.limit // width
        others = sorted(set(self.strands) - set(strands), key=lambda strand: strand.used)
        over = max(0, len(others) + len(strands) - most)
        self._evict(others[:over])
        wanted = len(others) - over + len(strands)
        rows = self.rows if wanted <= self.rows else max(wanted, self.rows * 3 // 2, 8)
        self._resize(min(rows, most), width)
        free = (place for place, owner in enumerate(self._owners) if owner is None or owner() is None)
        for strand in [strand for strand in strands if strand.place < 0]:
            self._settle(strand, next(free))

    def bring(self, strands: Sequence[Strand], first: int) -> None:
        """Bring texts to the places from `first` on, in any order, so that no text is copied to see them together."""
        there = {strand.place for strand in strands}
        holes = (place for place in range(first, first + len(strands)) if place not in there)
        for strand in strands:
            if not first <= strand.place < first + len(strands):
                self._exchange(strand, next(holes))

    def layer(self, number: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The buffers of a layer; made when it is first asked for, for keys and values [1, heads, tokens, size]."""
        if number not in self._layers:
            self._layers[number] = self._buffer("keys", number, key), self._buffer("values", number, value)
        return self._layers[number]

    def _buffer(self, what: str, number: int, new: torch.Tensor) -> torch.Tensor:
        """A layer's part of a stack: of those next to it, as many as may be in one piece at the limit."""
        _, heads, _, size = new.shape
        most = max(1, STACK_BYTES // (self.limit * heads * size * new.itemsize))
        first = number - number % most
        key = what, heads, size, first
        if key not in self._stacks:
            shape = min(most, self._count - first), self.rows, heads, self.width, size
            # Zeros, since what is masked still has to be a number.
            self._stacks[key] = new.new_zeros(shape)
        return self._stacks[key][number - first]

    def _exchange(self, strand: Strand, place: int) -> None:
        """`strand` goes to `place`, and what was there to where it was."""
        old, owner = strand.place, self._owners[place]
        other = owner() if owner else None
        tokens = max(len(strand.ids), len(other.ids) if other else 0)
        for stack in self._stacks.values():
            mine, theirs = stack[:, old, :, :tokens], stack[:, place, :, :tokens]
            kept = theirs.clone() if other else None
            theirs.copy_(mine)
            if kept is not None:
                mine.copy_(kept)
        self._owners[old] = None
        self._settle(strand, place)
        if other:
            self._settle(other, old)

    def _evict(self, strands: Sequence[Strand]) -> None:
        for strand in strands:
            self._owners[strand.place] = None
            strand.ids.clear()
            strand.place = -1

    def _resize(self, rows: int, width: int) -> None:
        """Make it `rows` rows of `width` tokens; the texts move together."""
        if (rows, width) == (self.rows, self.width):
            return
        strands = self.strands
        before = [strand.place for strand in strands]
        for strand in strands:
            del strand.ids[width:]
        self._layers.clear()
        for key, old in self._stacks.items():
            count, _, heads, _, size = old.shape
            new = old.new_zeros((count, rows, heads, width, size))
            for place, strand in enumerate(strands):
                tokens = len(strand.ids)
                new[:, place, :, :tokens] = old[:, before[place], :, :tokens]
            self._stacks[key] = new
        self._owners, self.width = [None] * rows, width
        for place, strand in enumerate(strands):
            self._settle(strand, place)

    def _settle(self, strand: Strand, place: int) -> None:
        self._owners[place], strand.place = weakref.ref(strand), place


def place_width(tokens: int) -> int:
    """The room that a text of so many tokens takes, as a rule."""
    return -(-tokens // STEP) * STEP


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts have in common at their beginning. Compares slices, which costs little at any length."""
    same, most = 0, min(len(one), len(other))
    while same < most:
        half = (same + most + 1) // 2
        if one[same:half] == other[same:half]:
            same = half
        else:
            most = half - 1
    return same
