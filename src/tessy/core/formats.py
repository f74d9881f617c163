"""Reasoning formats: how a model family opens its thinking, how it ends it, and how its answer begins.

The prompt itself comes from the tokenizer's own chat template; a format only adds what the family needs to stand at the
start of thinking and the template does not write. Names are those of vLLM's reasoning parsers.
Knows tokenizers by their protocol only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tessy.protocols import Tokenizer
from tessy.questions import Message


@dataclass(frozen=True)
class ReasoningFormat:
    """One model family's way to think."""

    name: str
    open: str
    """Markup at the start of thinking; what of it the chat template already wrote is not repeated."""
    close: str
    """Markup of a well-formed end of thinking, up to where the answer begins."""
    end: tuple[str, ...]
    """Texts that end the thinking, as tokens or spelled out."""
    template: Mapping[str, object] = field(default_factory=dict)
    """Arguments for the chat template."""


FORMATS: Mapping[str, ReasoningFormat] = {
    format.name: format
    for format in (
        ReasoningFormat(
            "qwen3", "<think>\n", "\n</think>\n\n", ("</think>",), template={"enable_thinking": True}
        ),
        ReasoningFormat("deepseek_r1", "<think>\n", "\n</think>\n\n", ("</think>",)),
        ReasoningFormat(
            "openai_gptoss",
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            # Servers that drop special tokens leave only the words of `<|start|>assistant<|channel|>final`.
            ("<|end|>", "<|return|>", "assistantfinal"),
            template={"reasoning_effort": "high"},
        ),
    )
}


class ThinkingEnd(NamedTuple):
    """`at`: offset of the end. `marked`: by the family's marker, not by a control token that ends the turn."""

    at: int
    marked: bool


class Thinking:
    """A reasoning format in one vocabulary: makes prompts, finds the end of thinking, writes it."""

    def __init__(
        self, format: ReasoningFormat, tokenizer: Tokenizer, foreign_ends: Sequence[str] = ()
    ) -> None:
        """`foreign_ends`: texts that end the thinking although they are another family's.

        A teacher that spells out `</think>` would otherwise put the student's marker inside the student's data.
        """
        self.format = format
        self._tokenizer = tokenizer
        self.end_texts = tuple(dict.fromkeys((*format.end, *foreign_ends)))
        spelled = (tokenizer.encode_markup(text) for text in format.end)
        self._marker_ids = frozenset(ids[0] for ids in spelled if len(ids) == 1)
        self._end_ids = self._marker_ids | tokenizer.control_ids
        heads = {marker[:n] for marker in self.end_texts for n in range(1, len(marker))}
        self._longest = max(map(len, self.end_texts))
        self._head = re.compile("(?:" + "|".join(map(re.escape, heads)) + r")\Z")

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the chat template around `messages`, up to and with the opening of the thinking."""
        ids = self._tokenizer.render(messages, **self.format.template)
        written = self._tokenizer.decode(ids[-16:])
        overlap = _overlap(written, self.format.open)
        return ids + self._tokenizer.encode_markup(self.format.open[overlap:])

    def closing(self, thinking: str) -> list[int]:
        """Ids that end `thinking` well and begin the answer, with no second newline after one that is there."""
        close = self.format.close
        return self._tokenizer.encode_markup(close.lstrip("\n") if thinking.endswith("\n") else close)

    def find_end(self, ids: Sequence[int], ends: Sequence[int], text: str) -> ThinkingEnd | None:
        """Where in `text` the thinking ends, by token id or by text; None if it goes on.

        `ends` holds the offset in `text` at which each id ends.
        """
        found = [ThinkingEnd(at, True) for marker in self.end_texts if (at := text.find(marker)) >= 0]
        if not self._end_ids.isdisjoint(ids):
            n = next(n for n, token in enumerate(ids) if token in self._end_ids)
            found.append(ThinkingEnd(ends[n - 1] if n else 0, ids[n] in self._marker_ids))
        return min(found, default=None)

    def unsettled(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a spelled-out end of thinking."""
        found = self._head.search(text, max(0, len(text) - self._longest))
        return found.end() - found.start() if found else 0


def _overlap(text: str, head: str) -> int:
    """Length of the longest end of `text` that is a beginning of `head`."""
    return next((n for n in range(min(len(text), len(head)), 0, -1) if text.endswith(head[:n])), 0)
