"""What a strategy is handed for one trajectory, and how its parts survive an interruption.

A strategy may have several whole responses written: candidates, grades, a reference. Each is a *part* with a name of
its own in the journal; one that has ended is never written again, one that was under way goes on from its last step.
Refuses to know what a part is for, and where writers and journals come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, Protocol

from tessy.core.cooperate import Response, cooperate
from tessy.core.dialogue import Dialogue, Limits, Stopped, Writer
from tessy.questions import Message, Question
from tessy.trajectory import Aside, Ended, Speaker, Step


class Hire(Protocol):
    """Makes writers."""

    def __call__(self, speaker: Speaker, messages: Sequence[Message], part: str) -> Writer:
        """What `speaker` brings to the part `part` (empty: the trajectory's own text), asked `messages`.

        Two parts draw differently; the same part of the same attempt draws the same again, where models can.
        """
        ...


class Grade(NamedTuple):
    """What a grader made of a candidate."""

    score: float | None
    """The higher the better, on any scale; None: the grade could not be read."""
    aside: Aside | None = None
    """What was written for it."""


class Grader(Protocol):
    """Grades candidates; asked once for each that is training data, and again for it after an interruption."""

    async def __call__(self, job: Job, candidate: Response, part: str) -> Grade:
        """Grade `candidate`, an answer to `job.question`. What is written for it is written as `part`.

        Raises:
            CompletionError: a completion could not be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One trajectory to write."""

    question: Question
    asked: Mapping[Speaker, Sequence[Message]]
    """The question as each speaker is asked it: under a system prompt of its own."""
    limits: Limits
    hire: Hire
    done: list[Step] = field(default_factory=list)
    """Steps that an interrupted run already made, of all parts. Those of a part are taken out when it is taken up."""
    record: Callable[[Step], None] = lambda step: None
    """Called with each new step before anything builds on it."""
    opener: Speaker = Speaker.STUDENT
    """Who begins, where the two take turns."""
    answerer: Speaker = Speaker.STUDENT
    """Who answers there."""
    candidates: int = 5
    """How many are written, where one is chosen."""
    grader: Grader | None = None
    """Who grades them; None: the teacher."""

    def writers(self, *speakers: Speaker, part: str = "") -> dict[Speaker, Writer]:
        """Writers that are asked the question."""
        return {speaker: self.hire(speaker, self.asked[speaker], part) for speaker in speakers}

    async def respond(
        self, writers: Mapping[Speaker, Writer], opener: Speaker, answerer: Speaker, part: str = ""
    ) -> Response:
        """Write a whole response, going on from what is journalled of this part.

        Raises:
            CompletionError: a completion could not be had.
            ModelError: a boundary predictor failed.
        """
        done = self._take_up(part)
        if done and done[-1].ended:
            return _ended(writers, self.limits, opener, done)
        response = await cooperate(
            writers,
            self.limits,
            opener=opener,
            answerer=answerer,
            done=_emptied(done),
            record=(lambda step: self.record(replace(step, part=part))) if part else self.record,
        )
        if part:  # the trajectory's own text becomes a row or a failure now, and is remembered there
            ended = Ended(response.stop, response.answer)
            self.record(Step(answerer, "", (), response.unkept, part=part, ended=ended))
        return response

    def _take_up(self, part: str) -> deque[Step]:
        mine = deque(step for step in self.done if step.part == part)
        self.done[:] = [step for step in self.done if step.part != part]
        return mine


def _emptied(steps: deque[Step]) -> Iterator[Step]:
    """Each in turn, and none is held after that: they are as large as all the rest of a trajectory in flight."""
    while steps:
        yield steps.popleft()


def _ended(
    writers: Mapping[Speaker, Writer], limits: Limits, opener: Speaker, steps: Sequence[Step]
) -> Response:
    """The response that these steps made, without asking anybody."""
    dialogue, last = Dialogue(writers, limits, opener), steps[-1]
    assert last.ended
    with suppress(Stopped):  # for the reason that stands in the last step
        for step in islice(steps, len(steps) - 1):
            dialogue.add(step)
    return Response(dialogue.spans, last.ended.answer, last.ended.stop, last.drafted)


def aside(part: str, speaker: Speaker, response: Response, text: str = "") -> Aside:
    """What is told of a part that one speaker wrote, and that is not the trajectory's text."""
    spans = response.spans if response.answer is None else (*response.spans, response.answer)
    return Aside(
        part,
        speaker,
        response.stop,
        tokens=sum(span.tokens for span in spans),
        drafts=sum(span.drafts for span in spans) + bool(response.unkept),
        drafted=sum(span.drafted for span in spans) + response.unkept,
        text=text,
    )
