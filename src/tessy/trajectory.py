"""What a run makes: the words of the trajectory.

Owns the records that flow through everything (span, step, trajectory) and why a trajectory ended.
Every count and share is derived from the spans. Refuses to know how text is made, stored or shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tessy.questions import Message, Question, under


class Speaker(StrEnum):
    """Who writes. The student writes style, the teacher writes capability."""

    STUDENT = "student"
    TEACHER = "teacher"

    @property
    def other(self) -> Speaker:
        """The other of the two."""
        return Speaker.TEACHER if self is Speaker.STUDENT else Speaker.STUDENT


class Label(StrEnum):
    """The kind of a token (paper §2.1): discourse and tone, or the substance of the solution."""

    STYLE = "style"
    CAPABILITY = "capability"


WRITES: dict[Speaker, Label] = {Speaker.STUDENT: Label.STYLE, Speaker.TEACHER: Label.CAPABILITY}
"""The kind of token that each speaker is responsible for (Eq. 3)."""


class StopReason(StrEnum):
    """Why a trajectory ended. Only the first two are training data."""

    FINISHED = "finished"
    """A speaker ended the thinking and the answer is complete."""
    CLOSED = "closed"
    """The thinking was closed at its limit (`on_thinking_limit: close`) and the answer is complete."""
    THINKING_LIMIT = "thinking_limit"
    """The thinking reached `limits.thinking_tokens` without ending."""
    CONTEXT_LIMIT = "context_limit"
    """A speaker's context (`limits.context_tokens`) was full before the trajectory was complete."""
    ANSWER_LIMIT = "answer_limit"
    """The answer reached `limits.answer_tokens` without ending."""
    REPETITION = "repetition"
    """The text went round in a loop."""
    EMPTY = "empty"
    """A speaker wrote nothing, several times over, where it had to write something."""

    @property
    def kept(self) -> bool:
        """Whether a trajectory that ended so is training data."""
        return self in (StopReason.FINISHED, StopReason.CLOSED)


@dataclass(frozen=True, slots=True)
class Step:
    """What one draft added: the unit of the journal. A dialogue is a fold over its steps."""

    speaker: Speaker
    text: str
    """Kept text."""
    ids: tuple[int, ...]
    """Kept tokens, as the writer wrote them; where a cut fell inside one, the last are an encoding of its part."""
    drafted: int
    """Tokens generated for it, kept or not."""
    tail: tuple[int, ...] = ()
    """Tokens held back because their text is not settled (half a character, the beginning of an end-of-thinking
    marker): the speaker goes on after them, and its next step begins with them."""
    switch: bool = False
    """The other speaker goes on."""
    ends_thinking: bool = False
    """The speaker ended the thinking after this text."""
    part: str = ""
    """Which of the responses that a trajectory is made from it belongs to (`candidate 2`, `reference`); empty: its own
    text."""
    ended: Ended | None = None
    """Set on the last step of such a part, which has no text: the part is finished and is not written again."""


@dataclass(frozen=True, slots=True)
class Span:
    """Kept text of one speaker, up to a switch. Tokens are counted in the writer's own vocabulary."""

    speaker: Speaker
    text: str
    tokens: int
    """Tokens kept."""
    drafts: int
    """Completions asked for."""
    drafted: int
    """Tokens generated, kept or not."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a part ended, and its answer: what its other steps do not tell."""

    stop: StopReason
    answer: Span | None


@dataclass(frozen=True, slots=True)
class Aside:
    """A response that was written for a trajectory and is not its text: a candidate not taken, a grade, a reference."""

    part: str
    speaker: Speaker
    stop: StopReason
    tokens: int
    """Tokens that it has, its answer included."""
    drafts: int
    """Completions asked for."""
    drafted: int
    """Tokens generated for it."""
    text: str = ""
    """The answer of a grade or a reference; of a candidate that was not taken nothing is kept."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of several candidates a trajectory is, and why."""

    taken: int
    """Its number, from 0."""
    scores: tuple[float | None, ...]
    """By candidate; None: the candidate failed, or its grade could not be read."""
    failed: int
    """Candidates that were no training data, and not graded."""
    unparsable: int
    """Grades that could not be read as a score."""

    @property
    def tied(self) -> int:
        """How many other candidates were graded as the one taken was: with its score or, if it has none, not at all
        that could be read. Above 0, grades did not decide which one it is."""
        score = self.scores[self.taken]
        return self.scores.count(score) - 1 - (self.failed if score is None else 0)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The whole response to one question: the spans of its thinking, the answer, and why it ended."""

    question: Question
    index: int
    """Which of the question's trajectories this is, from 0."""
    spans: tuple[Span, ...]
    answer: Span | None
    stop: StopReason
    seconds: float = 0.0
    """Time spent on it, by the clock of the run."""
    attempt: int = 1
    """Which attempt at it this was, from 1."""
    system: str = ""
    """The system prompt that its training data has before the question; empty: none."""
    asides: tuple[Aside, ...] = ()
    """What else was written for it."""
    choice: Choice | None = None
    """Set if it was chosen among candidates."""

    @property
    def id(self) -> str:
        """Identity in the store: the question's content hash and the index."""
        return trajectory_id(self.question.id, self.index)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What it answers as training data: the question, under its system prompt if it has one."""
        return under(self.system, self.question.messages)

    @property
    def thinking(self) -> str:
        """The text of the thinking, without markers."""
        return "".join(span.text for span in self.spans)

    @property
    def switches(self) -> int:
        """How often the speaker changed during the thinking."""
        return max(0, len(self.spans) - 1)

    @property
    def ended_by(self) -> Speaker | None:
        """Who ended the thinking (Table 4); None where nobody did."""
        return self.spans[-1].speaker if self.spans and self.stop is StopReason.FINISHED else None

    def tokens(self, speaker: Speaker | None = None) -> int:
        """Tokens kept, of one speaker or of both, the answer included."""
        return sum(span.tokens for span in self._all(speaker))

    def drafted(self, speaker: Speaker | None = None) -> int:
        """Tokens generated, kept or not, the answer and all asides included."""
        return sum(each.drafted for each in self._written(speaker))

    def drafts(self, speaker: Speaker | None = None) -> int:
        """Completions asked for, the answer and all asides included."""
        return sum(each.drafts for each in self._written(speaker))

    def _all(self, speaker: Speaker | None) -> Iterable[Span]:
        spans = self.spans if self.answer is None else (*self.spans, self.answer)
        return (span for span in spans if speaker is None or span.speaker is speaker)

    def _written(self, speaker: Speaker | None) -> Iterable[Span | Aside]:
        yield from self._all(speaker)
        yield from (aside for aside in self.asides if speaker is None or aside.speaker is speaker)


def trajectory_id(question_id: str, index: int) -> str:
    """`question_id` for a question's first trajectory, `question_id-1` and so on for the next ones."""
    return question_id if index == 0 else f"{question_id}-{index}"
