"""Is the text going round in a loop? Told as it grows, at a cost proportional to what is new.

A loop is a fragment of 3 to 50 words that stands 8 times in a row and is not punctuation alone (the public TESSY
code's rule; it looks at the last 1,000 characters only, this at the last 400 words). Characters of
scripts without spaces count as words. Knows only text: who wrote it and what follows from a loop is told elsewhere.
"""

from __future__ import annotations

import re
from collections import deque

MIN_WORDS = 3
MAX_WORDS = 50
TIMES = 8

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_COMPLETE = re.compile(rf"[\s{_UNSPACED}]")  # after such a character a word is over
_MAX_HELD = 1000
"""Characters. A longer run without a space is taken for a word before it ends, so that what is held is bounded."""


class RepetitionGuard:
    """Feed it the text piece by piece; `looping` turns true, and stays so, at the word that completes a loop."""

    def __init__(self) -> None:
        self.looping = False
        self._held = ""  # the last word so far: the next piece may go on with it
        self._words: deque[str] = deque(maxlen=MAX_WORDS)  # the last words, newest first
        self._runs: dict[int, int] = {}  # period -> how many words in a row equal the one a period earlier

    def feed(self, text: str) -> bool:
        """Take the next piece; whether the text loops by now."""
        text = self._held + text
        words = _WORD.findall(text)
        self._held = ""
        if words and not _COMPLETE.match(text[-1]) and len(words[-1]) < _MAX_HELD:
            self._held = words.pop()
        for word in words:
            self._add(word)
        return self.looping

    def _add(self, word: str) -> None:
        runs: dict[int, int] = {}
        # Most words are none of the last ones: that is told faster than where it stood.
        for period, earlier in enumerate(self._words if word in self._words else (), start=1):
            if earlier == word:
                runs[period] = run = self._runs.get(period, 0) + 1
                # A short period is found as the multiple of it that has at least MIN_WORDS words.
                if period >= MIN_WORDS and run >= period * (TIMES - 1) and self._has_letter(period):
                    self.looping = True
        self._runs = runs
        self._words.appendleft(word)

    def _has_letter(self, period: int) -> bool:
        return any(char.isalnum() for word in list(self._words)[:period] for char in word)
