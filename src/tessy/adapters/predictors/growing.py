"""Tokenizing a text that grows at its end, as a predictor's context does: what stood before is not tokenized again.

A vocabulary of byte-level pairs splits text into words before it looks for tokens, and a word that begins with a space
after a letter, a digit or the end of a clause begins a token whatever stands before it. There the text is taken apart,
and what each piece is in tokens is kept. Refuses to know whose text it is.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

PIECE = 128
"""Characters of a piece, at least. The last one, which still grows, is tokenized each time."""
PIECES = 16_384
"""Pieces that are kept, of some kilobytes each: the contexts of a thousand trajectories."""
_WORD = re.compile(r"(?<=[A-Za-z0-9.,;:!?)])(?= [A-Za-z])")


class Growing:
    """What `tokenizer.encode(text, add_special_tokens=False)` gives, sooner."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `tokenizers.Tokenizer`. One of another kind is asked for each text as a whole."""
        self._tokenizer = tokenizer
        self._in_pieces = _splits_words(tokenizer)
        self._piece = lru_cache(PIECES)(self._encode)

    def __call__(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of `text`, and for each the offset of its first character."""
        if not self._in_pieces:
            return self._encode(text)
        ids: list[int] = []
        starts: list[int] = []
        begin = 0
        while (cut := _WORD.search(text, begin + PIECE)) is not None:
            piece, its_starts = self._piece(text[begin : cut.start()])
            ids += piece
            starts += [begin + start for start in its_starts] if begin else its_starts
            begin = cut.start()
        piece, its_starts = self._encode(text[begin:])
        return ids + piece, starts + [begin + start for start in its_starts]

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]


def _splits_words(tokenizer: Any) -> bool:
    """Whether what a word is in tokens depends on nothing before it."""
    normalizer, words, trimmed = (
        json.dumps(json.loads(part.__getstate__())) if part is not None else ""
        for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)
    )
    # A space that is put before the first word would be put before each piece, or taken for one that was.
    prefixed = '"add_prefix_space": true'
    return (
        normalizer in ("", '{"type": "NFC"}')
        and '"ByteLevel"' in words
        and prefixed not in words
        and not (prefixed in trimmed and '"trim_offsets": true' in trimmed)
    )
