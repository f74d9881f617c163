"""The spans of a thinking that is being written, packed.

Thousands of trajectories are in flight, each with up to thousands of spans, and an object for each span takes several
times the room of its text. Grows at the end only; knows nothing of turns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from tessy.trajectory import Span, Speaker

_SPEAKERS = tuple(Speaker)
_NUMBERS = 5
"""Kept of each: who, bytes of text, tokens, drafts, tokens drafted."""


class SpanLog:
    """Spans in order: 20 bytes each and their text."""

    __slots__ = ("_numbers", "_text")

    def __init__(self) -> None:
        self._numbers = array("I")
        self._text = bytearray()

    def append(self, span: Span) -> None:
        """Put one at the end."""
        # Text of a model may hold half of a surrogate pair, if a server spells it out in JSON.
        text = span.text.encode("utf-8", "surrogatepass")
        self._text += text
        self._numbers.extend(
            (_SPEAKERS.index(span.speaker), len(text), span.tokens, span.drafts, span.drafted)
        )

    def __iter__(self) -> Iterator[Span]:
        begin = 0
        for n in range(0, len(self._numbers), _NUMBERS):
            who, size, tokens, drafts, drafted = self._numbers[n : n + _NUMBERS]
            text = self._text[begin : begin + size].decode("utf-8", "surrogatepass")
            yield Span(_SPEAKERS[who], text, tokens, drafts, drafted)
            begin += size
