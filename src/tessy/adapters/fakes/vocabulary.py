"""Two small vocabularies that need no files: single bytes, and pairs of bytes.

Both are `Tokenizer`s with a few control tokens and a tiny chat template each: `ByteTokenizer` like Qwen3 (its template
does not open the thinking), `PairTokenizer` like DeepSeek-R1 (its does). They share no id for anything.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from itertools import accumulate

from tessy.questions import Message

THINK, END_THINK = "<think>", "</think>"


class ByteTokenizer:
    """One token a byte: ids 0 to 255, markup above."""

    markup: tuple[str, ...] = (THINK, END_THINK, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    eos = "<|im_end|>"
    bos: str | None = None

    def __init__(self) -> None:
        self._piece = re.compile(rb".", re.DOTALL)
        self._number([bytes([byte]) for byte in range(256)], first=0)

    def _number(self, pieces: Sequence[bytes], first: int) -> None:
        """Give out ids: `pieces` from `first`, markup after them."""
        self._ids = {piece: first + n for n, piece in enumerate(pieces)}
        end = first + len(pieces)
        self._markup_ids = {text: end + n for n, text in enumerate(self.markup)}
        self._pieces = {token: piece for piece, token in self._ids.items()}
        self._pieces |= {token: text.encode() for text, token in self._markup_ids.items()}
        self._split = re.compile("(" + "|".join(map(re.escape, self.markup)) + ")")
        self.eos_id = self._markup_ids[self.eos]
        self.end_think_id = self._markup_ids[END_THINK]
        self.control_ids = frozenset(
            token for text, token in self._markup_ids.items() if text not in (THINK, END_THINK)
        )

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._pieces) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; markup written in it is ordinary text."""
        return self.encode_bytes(text.encode("utf-8", "replace"))

    def encode_bytes(self, text: bytes) -> list[int]:
        """Ids of bytes, greedily from the left; how a piece is split does not depend on what was before it."""
        return [self._ids[piece] for piece in self._piece.findall(text)]

    def encode_markup(self, text: str) -> list[int]:
        """Ids of trusted text, in which markup is one token each."""
        ids: list[int] = []
        for part in self._split.split(text):
            token = self._markup_ids.get(part)
            ids += self.encode(part) if token is None else [token]
        return ids

    def render(self, messages: Sequence[Message], **template: object) -> list[int]:
        """The chat template; it takes any argument and heeds none."""
        ids: list[int] = []
        for message in messages:
            ids += self.encode_markup(f"<|im_start|>{message.role}\n")
            ids += self.encode(message.content)
            ids += self.encode_markup("<|im_end|>\n")
        return ids + self.encode_markup("<|im_start|>assistant\n")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids; an unknown id has none."""
        return b"".join([self._pieces.get(token, b"") for token in ids])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, markup as it is spelled, U+FFFD for what is no UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def offsets(self, before: Sequence[int], ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text that `ids` add after `before`, and the length of it up to and with each id."""
        pieces, seen = [self._pieces.get(token, b"") for token in ids], self.decode_bytes(before[-4:])
        if seen.isascii() and (whole := b"".join(pieces)).isascii():
            return whole.decode(), list(accumulate(map(len, pieces)))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(seen)
        parts, ends, length = [], [], 0
        for piece in pieces:
            parts.append(decoder.decode(piece))
            length += len(parts[-1])
            ends.append(length)
        return "".join(parts), ends


class PairTokenizer(ByteTokenizer):
    """Two printable ASCII characters a token (a space only in front), else one byte; all ids are its own."""

    markup = (END_THINK, THINK, "<s>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>")
    eos = "<|end|>"
    bos = "<s>"

    def __init__(self) -> None:
        self._piece = re.compile(rb"[ -~][!-~]|.", re.DOTALL)
        pairs = [bytes([a, b]) for a in range(0x20, 0x7F) for b in range(0x21, 0x7F)]
        singles = [bytes([byte]) for byte in range(255, -1, -1)]
        self._number([*pairs, *singles], first=512)

    def render(self, messages: Sequence[Message], **template: object) -> list[int]:
        """The chat template, which begins with a BOS and opens the thinking."""
        ids = self.encode_markup("<s>")
        for message in messages:
            ids += self.encode_markup(
                f"<|{message.role}|>" if message.role != "assistant" else "<|assistant|>"
            )
            ids += self.encode(message.content)
        return ids + self.encode_markup("<|assistant|><think>\n")
