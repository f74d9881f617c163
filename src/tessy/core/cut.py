"""The rules of the cut: how much of a draft is kept, and whether the speaker changes.

The one place that knows the rules:

1. *Shift*: the predictor's head at token j speaks about token j+1 (`shifted`).
2. *Progress*: a speaker that has just been switched to keeps at least one word; one that goes on may keep nothing.
3. *Words*: a switch never falls inside a word. The word is finished if the draft shows its end, otherwise dropped.
   Text without spaces (Chinese, long formulas, code) is cut at a token of the writer instead.

Refuses to know where labels and drafts come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessy.protocols import Mark


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
    return [
        Mark(start - context, style[j - 1])
        for j, start in enumerate(starts)
        if j > 0 and start >= context
    ]
