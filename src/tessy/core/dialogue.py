"""The state of one trajectory while it grows: a fold over its steps, and what the next step may be.

Owns rule 4 of the cut: what a speaker sees is its own prompt plus exactly the kept text; tokens that it wrote stay the
tokens it wrote, the other's text is encoded once, span by span, and appended. Nothing here is proportional to
the length of what is already there. Refuses to know how drafts and labels are made.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessy.core.cut import boundary, cut
from tessy.core.formats import Thinking, ThinkingEnd
from tessy.core.prompt import TokenBuffer
from tessy.core.repetition import RepetitionGuard
from tessy.core.spans import SpanLog
from tessy.protocols import BoundaryPredictor, Completer, Completion, Mark, Tokenizer
from tessy.trajectory import Span, Speaker, Step, StopReason

RECENT = 2000
"""Characters of the thinking that a boundary predictor is handed at least: its window of 200 tokens, with room to
spare."""

STRIDE = 512
"""Characters by which the beginning of that moves on. It does not follow each token, so that a predictor finds most of
what it is handed as it was before, and need not read it again."""

MAX_TAIL = 64
"""Tokens. More than that held back without a character of text is no unfinished character but noise."""


@dataclass(frozen=True, slots=True)
class Writer:
    """All that one speaker brings to a trajectory."""

    complete: Completer
    boundary: BoundaryPredictor
    tokenizer: Tokenizer
    thinking: Thinking
    prompt: Sequence[int]
    """Ids of the speaker's own prompt, the opening of the thinking included."""
    chunk: int
    """Tokens asked for at a time, the paper's k."""
    threshold: float = 0.5
    """Probability from which a token counts as style."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a trajectory may grow, in tokens of whoever writes."""

    thinking_tokens: int = 38_000
    context_tokens: int = 40_960
    """Prompt, thinking and answer stay below it, for each speaker in its own tokens.

    One below: SGLang refuses a request whose prompt and max_tokens reach the model's context.
    """
    answer_tokens: int | None = None
    """None: up to the context."""
    close_thinking: bool = False
    """At the limit of the thinking: close it and let the answer be written, instead of failing."""
    empty_retries: int = 3
    """How often an empty completion is asked for again (the public code's 3)."""


class Stopped(Exception):  # noqa: N818 - control flow, caught by `cooperate`
    """The trajectory ends here, for this reason."""

    def __init__(self, reason: StopReason, unkept: int = 0) -> None:
        """`unkept`: tokens of an answer that was written and is no part of it."""
        super().__init__(reason.value)
        self.reason = reason
        self.unkept = unkept


@dataclass(frozen=True, slots=True)
class Draft:
    """What came back for one request, held-back tokens of the step before included, in text and in tokens."""

    text: str
    """Up to the end of thinking, or to what may be the beginning of its marker, if that is in it."""
    ids: tuple[int, ...]
    ends: Sequence[int]
    """For each id the offset at which its text ends; may go beyond the text."""
    ended: bool
    """The speaker's thinking ends with the text."""
    drafted: int


class Dialogue:
    """The spans so far, what each speaker sees, and whose turn it is."""

    def __init__(self, writers: Mapping[Speaker, Writer], limits: Limits, opener: Speaker) -> None:
        self.writers = writers
        self.limits = limits
        self.speaker = opener
        self.sees = {speaker: TokenBuffer(writer.prompt) for speaker, writer in writers.items()}
        self.recent = ""
        """The end of the thinking, for the boundary predictors."""
        self.thinking_ended = False
        self.thinking_tokens = 0
        self._spans = SpanLog()
        self._repetition = RepetitionGuard()
        self._tail: tuple[int, ...] = ()
        self._begin_span()

    @property
    def writer(self) -> Writer:
        """What the speaker whose turn it is brings."""
        return self.writers[self.speaker]

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans, with the one being written if there was a draft for it."""
        return (*self._spans, self._span()) if self._drafts else tuple(self._spans)

    def room(self) -> int:
        """How many tokens the speaker may still write.

        Raises:
            Stopped: none, because a limit is reached.
        """
        thinking = self.limits.thinking_tokens - self.thinking_tokens - len(self._tail)
        context = self.limits.context_tokens - 1 - len(self.sees[self.speaker])
        if thinking <= 0:
            raise Stopped(StopReason.THINKING_LIMIT)
        if context <= 0:
            raise Stopped(StopReason.CONTEXT_LIMIT)
        return min(thinking, context)

    def read(self, completion: Completion) -> Draft | None:
        """The completion as a draft; None if it is empty where something had to be written."""
        writer = self.writer
        new = writer.tokenizer.encode(completion.text) if completion.ids is None else completion.ids
        ids = (*self._tail, *new)
        seen = self.sees[self.speaker].tail(8 + len(self._tail))
        text, ends = writer.tokenizer.offsets(seen[: len(seen) - len(self._tail)], ids)
        end = writer.thinking.find_end(ids, ends, text)
        if end is None and completion.finished:
            end = ThinkingEnd(len(text), marked=False)
        if end is None:
            settled = text[: len(text) - writer.thinking.unsettled(text)]
            return Draft(settled, ids, ends, ended=False, drafted=len(new)) if new else None
        if end.at == 0 and not end.marked and not self._has_word():
            return None
        return Draft(text[: end.at], ids, ends, ended=True, drafted=len(new))

    def step(self, draft: Draft, marks: Sequence[Mark]) -> Step:
        """What is kept of the draft, by the rules of the cut."""
        writer = self.writer
        edge = cut(
            draft.text,
            boundary(marks, self.speaker, writer.threshold),
            before=self.recent,
            fresh=not self._has_word(),
            ended=draft.ended,
            token_ends=draft.ends,
        )
        ends_thinking = draft.ended and edge.keep == len(draft.text)
        goes_on = not edge.switch and not ends_thinking
        whole, covered = _whole_tokens(draft.ends, edge.keep)
        keep = covered if goes_on else edge.keep
        part = writer.tokenizer.encode(draft.text[covered:keep]) if covered < keep else ()
        return Step(
            self.speaker,
            draft.text[:keep],
            (*draft.ids[:whole], *part),
            draft.drafted,
            tail=draft.ids[whole:] if goes_on else (),
            switch=edge.switch and not ends_thinking,
            ends_thinking=ends_thinking,
        )

    def add(self, step: Step) -> None:
        """Go on by one step.

        Raises:
            Stopped: the text loops, or nothing but noise was written.
        """
        sees = self.sees[step.speaker]
        if self._tail:
            sees.drop(len(self._tail))
        sees.extend(step.ids + step.tail)
        self._tail = step.tail
        self._pieces.append(step.text)
        self._tokens += len(step.ids)
        self._drafts += 1
        self._drafted += step.drafted
        self.thinking_tokens += len(step.ids)
        self.recent += step.text
        self.recent = self.recent[max(0, len(self.recent) - RECENT) // STRIDE * STRIDE :]
        self.thinking_ended = step.ends_thinking
        if self._repetition.feed(step.text):
            raise Stopped(StopReason.REPETITION)
        if len(step.tail) > MAX_TAIL:
            raise Stopped(StopReason.EMPTY)
        if step.switch:
            span = self._span()
            self._spans.append(span)
            self.speaker = self.speaker.other
            self.sees[self.speaker].extend(self.writer.tokenizer.encode(span.text))
            self._begin_span()

    def close(self, answerer: Speaker) -> TokenBuffer:
        """End the thinking where it is: what `answerer` sees, up to where its answer begins.

        Raises:
            Stopped: there is no thinking, or no room for an answer.
        """
        if not self.recent.strip():
            raise Stopped(StopReason.EMPTY)
        writer, sees = self.writers[answerer], self.sees[answerer]
        if answerer is self.speaker:
            sees.drop(len(self._tail))
        else:
            sees.extend(writer.tokenizer.encode(self._span().text))
        sees.extend(writer.thinking.closing(self.recent))
        if self.answer_room(sees) <= 0:
            raise Stopped(StopReason.CONTEXT_LIMIT)
        return sees

    def answer_room(self, prompt: TokenBuffer) -> int:
        """How many tokens an answer after `prompt` may have."""
        context = self.limits.context_tokens - 1 - len(prompt)
        return context if self.limits.answer_tokens is None else min(context, self.limits.answer_tokens)

    def answer(self, answerer: Speaker, completion: Completion) -> Span:
        """The answer as a span.

        Raises:
            Stopped: it is empty, does not end, or loops.
        """
        tokenizer = self.writers[answerer].tokenizer
        ids = tokenizer.encode(completion.text) if completion.ids is None else completion.ids
        end = len(ids)
        while end and ids[end - 1] in tokenizer.control_ids:
            end -= 1
        text = tokenizer.offsets(self.sees[answerer].tail(8), ids[:end])[0]
        if RepetitionGuard().feed(text + "\n"):
            raise Stopped(StopReason.REPETITION, len(ids))
        if end == len(ids) and not completion.finished:
            full = self.limits.context_tokens - 1 - len(self.sees[answerer]) <= len(ids)
            raise Stopped(StopReason.CONTEXT_LIMIT if full else StopReason.ANSWER_LIMIT, len(ids))
        if not text.strip():
            raise Stopped(StopReason.EMPTY, len(ids))
        return Span(answerer, text, end, drafts=1, drafted=len(ids))

    def _begin_span(self) -> None:
        self._pieces: list[str] = []
        self._tokens = self._drafts = self._drafted = 0
        self._tail = ()

    def _span(self) -> Span:
        return Span(self.speaker, "".join(self._pieces), self._tokens, self._drafts, self._drafted)

    def _has_word(self) -> bool:
        """The current span has a word, or the beginning of one."""
        return any(piece and not piece.isspace() for piece in self._pieces)


def _whole_tokens(ends: Sequence[int], keep: int) -> tuple[int, int]:
    """How many tokens lie within the first `keep` characters, and how many characters those cover.

    Tokens at the end that bring no text (the beginning of a character) are left out.
    """
    within = bisect_right(ends, keep)
    covered = ends[within - 1] if within else 0
    return (bisect_left(ends, covered) + 1, covered) if covered else (0, 0)
