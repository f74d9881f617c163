"""The rules of the cut: how much of a draft is kept, and whether the speaker changes.

The one place that knows the rules:

1. *Shift*: the predictor's head at token j speaks about token j+1 (`shifted`, and in training `targets`).
2. *Progress*: a speaker that has just been switched to keeps at least one word; one that goes on may keep nothing.
3. *Words*: a switch never falls inside a word. The word is finished if the draft shows its end, otherwise dropped.
   Text without spaces (Chinese, long formulas, code) is cut at a token of the writer instead.

Pure functions over text and offsets; refuses to know where labels and drafts come from.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tessy.protocols import Mark
from tessy.trajectory import WRITES, Label, Speaker

MAX_WORD = 40
"""Characters. A run without spaces that is longer is no word (a formula, a URL, code) and may be cut inside."""

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff"
)
"""Scripts that are written without spaces between words, with their punctuation, as a class of a regular expression:
Thai, Lao, Myanmar, Khmer, CJK and kana, full-width forms."""

WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]{{1,{MAX_WORD}}}")
"""What counts as one word where words are counted: a run between spaces, each character of an unspaced script, each
`MAX_WORD` characters of a longer run."""

_UNSPACED = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True, slots=True)
class Cut:
    """The first `keep` characters of the draft are kept; `switch` says that the other speaker goes on."""

    keep: int
    switch: bool


def shifted(style: Sequence[float], starts: Sequence[int], context: int) -> list[Mark]:
    """Rule 1: the marks of a draft from the predictor's head outputs over `context + draft`.

    Args:
        style: for each token j of the window, the head's probability that token **j+1** is style.
        starts: for each token of the window, the offset of its first character (in the window's text).
        context: length in characters of the context at the window's start; the draft begins there.

    Returns:
        One mark for each token that starts in the draft, except the window's first token, of which no head
        speaks. A token that straddles the edge started in kept text and gets none.
    """
    first = max(1, bisect_left(starts, context))
    return [Mark(starts[j] - context, style[j - 1]) for j in range(first, len(starts))]


def targets(kinds: Sequence[Label]) -> list[Label | None]:
    """Rule 1 for training: what the head at each token of a window learns.

    Args:
        kinds: the kind of each token of the window (`tessy.core.annotation.kinds`).

    Returns:
        As many labels: at token j the kind of token **j+1**; the last has none, since nothing follows it.
    """
    return [*kinds[1:], None] if kinds else []


def boundary(marks: Sequence[Mark], speaker: Speaker, threshold: float = 0.5) -> int | None:
    """The offset of the first token whose kind is not the speaker's; None if there is none.

    A token is style if its probability is at least `threshold` (0.5 is the paper's argmax).
    """
    for mark in marks:
        kind = Label.STYLE if mark.style >= threshold else Label.CAPABILITY
        if kind is not WRITES[speaker]:
            return mark.start
    return None


def cut(
    draft: str, at: int | None, *, before: str, fresh: bool, ended: bool, token_ends: Sequence[int]
) -> Cut:
    """Apply rules 2 and 3 to a draft whose kind changes at offset `at`.

    Args:
        draft: the text that the speaker wrote.
        at: where the kind changes, from `boundary`; None keeps the whole draft.
        before: the kept text before the draft (its last `MAX_WORD` characters are looked at).
        fresh: the speaker's current span has no word yet (rule 2).
        ended: the draft is the end of the speaker's turn, so its last word is complete.
        token_ends: the offsets in `draft` at which the writer's tokens end, ascending.
    """
    whole = Cut(len(draft), switch=False)
    if at is None or at >= len(draft):
        return whole
    edge = _word_edge(draft, at, before, ended, token_ends)
    if edge is not None:
        # The space before the next word goes with that word: vocabularies hold " word" as one token.
        edge = len(draft[:edge].rstrip(" \t"))
    if edge is not None and fresh and not draft[:edge].strip():
        edge = _first_word_end(draft, ended, token_ends)
    return whole if edge is None else Cut(edge, switch=True)


def _word_edge(draft: str, at: int, before: str, ended: bool, token_ends: Sequence[int]) -> int | None:
    """Rule 3: `at`, moved off the inside of a word. None: inside a word that began before and does not end."""
    near = before[-MAX_WORD:]
    text, at = near + draft, at + len(near)
    if at == 0 or text[at - 1].isspace() or text[at].isspace():
        return at - len(near)
    if _UNSPACED.match(text[at - 1]) or _UNSPACED.match(text[at]):
        return _between_words(draft, at - len(near), token_ends)
    for inside in (_is_dense, _is_wordy):
        start, end = _run(text, at, inside)
        if not start < at < end:
            return _between_words(draft, at - len(near), token_ends)
        if end - start <= MAX_WORD:
            if end < len(text) or ended:
                return end - len(near)
            return start - len(near) if start >= len(near) else None
    return _token_edge(token_ends, at - len(near))


def _between_words(draft: str, at: int, token_ends: Sequence[int]) -> int | None:
    """In text without spaces: the writer's next token end after `at`, which is no place inside a word."""
    edge = _token_edge(token_ends, at)
    if edge is None or edge >= len(draft):
        return edge
    start, end = _run(draft, edge, _is_wordy)
    return at if start < edge < end else edge


def _first_word_end(draft: str, ended: bool, token_ends: Sequence[int]) -> int | None:
    """Rule 2: the end of the draft's first word; None if the draft does not show it."""
    start = len(draft) - len(draft.lstrip())
    if start == len(draft):
        return None
    if _UNSPACED.match(draft[start]):
        return _token_edge(token_ends, start + 1)
    for inside in (_is_dense, _is_wordy):
        _, end = _run(draft, start + 1, inside)
        if end - start <= MAX_WORD:
            return max(end, start + 1) if end < len(draft) or ended else None
    return _token_edge(token_ends, start + 1)


def _token_edge(token_ends: Sequence[int], at: int) -> int | None:
    """The first end of a token of the writer at or after `at`; None if no whole token ends there."""
    found = bisect_left(token_ends, at)
    return token_ends[found] if found < len(token_ends) else None


def _is_dense(char: str) -> bool:
    return not char.isspace() and not _UNSPACED.match(char)


def _is_wordy(char: str) -> bool:
    return (char.isalnum() or char in "_'’") and not _UNSPACED.match(char)


def _run(text: str, at: int, inside: Callable[[str], bool]) -> tuple[int, int]:
    """The run of characters around `at` that are `inside`, looked at up to just beyond `MAX_WORD`."""
    start = end = at
    while start > 0 and at - start <= MAX_WORD and inside(text[start - 1]):
        start -= 1
    while end < len(text) and end - start <= MAX_WORD and inside(text[end]):
        end += 1
    return start, end
