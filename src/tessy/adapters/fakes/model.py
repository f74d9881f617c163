"""A model that follows a script, the boundary predictor that knows the script, and an engine around the model.

The script is read off the end of the prompt alone, so a completion costs the same however long the trajectory is, and
asking for k tokens twice gives what asking for 2k gives. Thinking is a row of clauses: style words (they begin
with an ASCII letter), capability words (they do not), and a marker `[left|value]` that counts the clauses down.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from zlib import crc32

from tessy.adapters.fakes.vocabulary import END_THINK, THINK, ByteTokenizer
from tessy.errors import CompletionError, DeadlineError
from tessy.protocols import Completer, Completion, EngineStats, Mark, Prompt

LOOK_BACK = 768
"""Tokens of the prompt that are read: the longest clause, the text before the thinking, and room for foreign text."""

NEAR = 192
"""Tokens in which there is a marker as a rule; then they are all that is read."""

SEED_BYTES = 96
"""Bytes before the opening of the thinking from which a script is drawn: the end of the question, mostly."""

_OPENING, _ENDING = THINK.encode(), END_THINK.encode()
_MARKER = re.compile(rb"\[(\d{1,7})\|(\d{1,5})\]")
_CAPABILITY = tuple("73 + 4821 = √9 → (x+1)^2 ≈ 数字42 {f(3)} 0.5 % 12÷4 — 9é é9 ∑x 🙂7 ;".encode().split())


class Voice(Enum):
    """How a scripted model speaks when it writes style; the last phrase ends its thinking."""

    STUDENT = (
        "Okay, let me see,",
        "Hmm, wait,",
        "Alright, so",
        "But hold on, let me check that again,",
        "Right,",
        "Naïve as it is,",
        "Okay, that settles it.",
    )
    TEACHER = ("Then", "Thus", "We get", "Hence, directly,", "Next:", "Done.")


class _End(Enum):
    """Pieces of a script that are control tokens."""

    THINKING = END_THINK
    TURN = "end of turn"


@dataclass(slots=True)
class _Script:
    """Where in its script a model is: the last marker, and the whole words after it."""

    model: ScriptedModel
    left: int
    value: int
    words: list[bytes]
    answering: bool = False

    def next(self) -> bytes | _End:
        """The next word."""
        if self.answering:
            return self._follow([b"The", b"answer", b"is", b"%d." % self.value], _End.TURN)
        draw = crc32(b"%d|%d|%d" % (self.left, self.value, self.model.salt))
        if self.left == 0:
            return self._follow(self.model.farewell, _End.THINKING)
        style = next((n for n, word in enumerate(self.words) if not _is_style(word)), len(self.words))
        done = self.words[style:]
        phrase = self.model.phrases[draw % len(self.model.phrases)] if draw % 4 else []
        if not done and self.words == phrase[:style] and style < len(phrase):
            return phrase[style]
        clause = [_CAPABILITY[(draw >> 3 * n) % len(_CAPABILITY)] for n in range(2 + draw % 5)]
        if done == clause[: len(done)] and len(done) < len(clause):
            return clause[len(done)]
        return b"[%d|%d]" % (self.left - 1, crc32(b" ".join(done), draw) % 10_000)

    def _follow(self, script: Sequence[bytes], end: _End) -> bytes | _End:
        """The word of `script` after those that are there; its end where they are others."""
        done = len(self.words)
        return script[done] if self.words == script[:done] and done < len(script) else end

    def push(self, word: bytes | _End) -> None:
        """Go on by one word."""
        if word is _End.THINKING:
            self.answering, self.words = True, []
        elif isinstance(word, bytes):
            if marker := _MARKER.fullmatch(word):
                self.left, self.value, self.words = int(marker[1]), int(marker[2]), []
            else:
                self.words.append(word)


class ScriptedModel:
    """A deterministic function of the end of a prompt."""

    def __init__(
        self,
        tokenizer: ByteTokenizer,
        voice: Voice = Voice.STUDENT,
        *,
        clauses: tuple[int, int] = (3, 12),
        salt: int = 0,
    ) -> None:
        """`clauses`: fewest and most clauses of a thinking. Two salts never write the same clauses."""
        self.tokenizer = tokenizer
        self.clauses = clauses
        self.salt = salt
        self.phrases: list[list[bytes]] = [phrase.encode().split() for phrase in voice.value]
        self.farewell = self.phrases.pop()

    def write(self, ids: Sequence[int], count: int) -> Completion:
        """Continue the prompt `ids` by at most `count` tokens, in time proportional to `count`."""
        near = self.tokenizer.decode_bytes(ids[-NEAR:])
        end = near if _MARKER.search(near) else self.tokenizer.decode_bytes(ids[-LOOK_BACK:])
        script, partial, space = self._read(end)
        written: list[int] = []
        while len(written) < count:
            word = script.next()
            script.push(word)
            if word is _End.TURN:
                written.append(self.tokenizer.eos_id)
                break
            if word is _End.THINKING:
                written += self.tokenizer.encode_bytes(b"\n" if space else b"")
                written.append(self.tokenizer.end_think_id)
                space = b"\n\n"
                continue
            written += self.tokenizer.encode_bytes(space + word[len(partial) :])
            partial, space = b"", b" "
        return self._completion(written[:count])

    def _completion(self, ids: list[int]) -> Completion:
        finished = bool(ids) and ids[-1] == self.tokenizer.eos_id
        return Completion(tuple(ids), self.tokenizer.decode(ids[:-1] if finished else ids), finished)

    def _read(self, end: bytes) -> tuple[_Script, bytes, bytes]:
        """The script's place at the end of a prompt, the word begun there, and the space before what follows."""
        opening = end.rfind(_OPENING)
        thinking = end[opening + len(_OPENING) :] if opening >= 0 else end
        markers = _MARKER.findall(thinking)
        if markers:
            left, value = map(int, markers[-1])
            thinking = thinking[thinking.rindex(b"]") + 1 :]
        else:
            value = crc32(end[max(0, opening - SEED_BYTES) : max(0, opening)])
            fewest, most = self.clauses
            left, value = fewest + value % (most - fewest + 1), value % 10_000
        thinking, ended, answer = thinking.partition(_ENDING)
        text = answer if ended else thinking
        script = _Script(self, left, value, text.split(), answering=bool(ended))
        if ended and text in (b"", b"\n"):
            return script, b"", b"\n\n"[len(text) :]
        if text and not text[-1:].isspace():
            return self._resume(script)
        return script, b"", b"" if text else b" "

    def _resume(self, script: _Script) -> tuple[_Script, bytes, bytes]:
        """The prompt ends in a word, whole or not: go on with it if it is the script's, else take it as whole."""
        partial = script.words.pop()
        expected = script.next()
        if isinstance(expected, bytes) and expected.startswith(partial) and expected != partial:
            return script, partial, b""
        script.push(partial)
        return script, b"", b" "


def _is_style(word: bytes) -> bool:
    return word[:1].isalpha()


class ScriptedBoundary:
    """A boundary predictor without error: one mark at the beginning of each word."""

    _WORD = re.compile(r"(?<!\S)\S")

    async def __call__(self, context: str, draft: str) -> Sequence[Mark]:
        """Marks of `draft`; a word that began in `context` gets none."""
        inside = bool(context) and not context[-1].isspace()
        return [
            Mark(start, float(draft[start].isascii() and draft[start].isalpha()))
            for start in (match.start() for match in self._WORD.finditer(draft))
            if start or not inside
        ]


@dataclass
class FakeEngine:
    """An `Engine` around a scripted model in this process."""

    model: ScriptedModel
    latency: float = 0.0
    """Seconds that each completion takes."""
    fault: Callable[[int], CompletionError | None] = lambda number: None
    """Asked with the number of each request, from 1: the error to raise instead of completing."""
    stats: EngineStats = field(default_factory=EngineStats)
    _asked: int = 0

    def completer(self, key: str, *, seed: int | None, deadline: float | None) -> Completer:
        """The completer of one trajectory; the script heeds no seed."""
        return _FakeCompleter(self, deadline)

    async def complete(self, prompt: Prompt, max_tokens: int, deadline: float | None) -> Completion:
        """Continue `prompt`, or raise what `fault` says."""
        self._asked += 1
        error = self.fault(self._asked)
        self.stats.in_flight += 1
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.stats.in_flight -= 1
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineError("the trajectory's time is up", where="scripted model", kind="deadline")
        if error is not None:
            raise error
        completion = self.model.write(prompt.tail(LOOK_BACK), max_tokens)
        self.stats.requests += 1
        self.stats.generated += len(completion.ids or ())
        return completion

    async def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True)
class _FakeCompleter:
    """One trajectory's way to a `FakeEngine`."""

    engine: FakeEngine
    deadline: float | None

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        return await self.engine.complete(prompt, max_tokens, self.deadline)

    def let_go(self) -> None:
        """Nothing goes on between two completions."""
