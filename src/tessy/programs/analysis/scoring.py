"""How on-policy responses are (Eq. 2): the student's own negative log-likelihood of each token, by the token's kind.

A response is read as it is trained on: the student's own prompt around the question, the thinking, the student's
closing, the answer, in the student's tokens. Style is what the student wrote and capability what the teacher wrote;
where one of them wrote it all, or nobody tells, a boundary predictor decides, if there is one. The markup between
thinking and answer is read, but not counted. Refuses to know how a model is asked, and how anything is drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tessy.adapters.predictors import TokenClassifier, load_predictor
from tessy.core.formats import Thinking
from tessy.core.measures import Kinds
from tessy.errors import CompletionError, ModelError, RequestError
from tessy.programs.analysis.gather import smallest
from tessy.programs.analysis.records import AnalysisOptions
from tessy.programs.analysis.sources import Response, Source, open_sources
from tessy.programs.analysis.student import Likelihood, likelihood_of, section, student_of, tokenizer_of
from tessy.programs.config import FAKE, SpeakerConfig
from tessy.programs.speakers import model_name
from tessy.protocols import BoundaryPredictor, Tokenizer
from tessy.trajectory import Label

T = TypeVar("T")

THINKING, ANSWER, ALL = "thinking", "answer", "all"
"""Kinds of tokens beside `Label`'s: the parts of a response, and all of it."""

DRAFT = 400
"""Characters that a boundary predictor labels at a time, up to the end of a word."""
CONTEXT = 4000
"""Characters before them that it is given; it reads what it has room for."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Some tokens of one response."""

    nats: float
    """Their negative log-likelihood, in natural logarithms."""
    tokens: int


Scored = Mapping[str, Sum]
"""One response by kind of token: a `Label`, THINKING, ANSWER or ALL."""


@dataclass(frozen=True)
class Scores:
    """What was scored, by source; `reason`: why there is nothing."""

    student: str = ""
    by_source: Mapping[str, Sequence[Scored]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    """Responses that the model could not read: longer than its context, mostly."""
    predicted: frozenset[str] = frozenset()
    """Sources whose kinds of tokens a boundary predictor told, not the spans."""
    reason: str = "the student was not asked for its log-probabilities"


class Reader:
    """Reads responses with the student's eyes."""

    def __init__(self, likelihood: Likelihood, tokenizer: Tokenizer, thinking: Thinking) -> None:
        self._likelihood = likelihood
        self._tokenizer = tokenizer
        self._thinking = thinking

    async def score(self, response: Response, kinds: Kinds | None) -> Scored | None:
        """The negative log-likelihood of a response; None where the model refuses to read it.

        `kinds`: of the characters of its thinking; None: they are not told apart.

        Raises:
            CompletionError: the model failed.
            ModelError: the question cannot be put into the student's template.
        """
        text, answer = response.thinking.strip(), response.answer.strip()
        prompt = self._thinking.prompt(response.messages)
        written, told = self._tokenizer.encode(text), self._tokenizer.encode(answer)
        closing = self._thinking.closing(text)
        try:
            read = await self._likelihood([*prompt, *written, *closing, *told])
        except RequestError:
            return None
        nats = [-value for value in read[len(prompt) - 1 :]]
        of_thinking, of_answer = nats[: len(written)], nats[len(written) + len(closing) :]
        sums = {
            THINKING: _sum(of_thinking),
            ANSWER: _sum(of_answer),
            ALL: _sum([*of_thinking, *of_answer]),
        }
        if kinds is not None and written:
            lead = len(response.thinking) - len(response.thinking.lstrip())
            starts = (0, *self._tokenizer.offsets((), written)[1][:-1])
            labels = [kinds.at(lead + start) for start in starts]
            for label in Label:
                pairs = zip(of_thinking, labels, strict=True)
                sums[label.value] = _sum([value for value, each in pairs if each is label])
        return sums


async def score(sources: Sequence[str | Path], options: AnalysisOptions) -> Scores:
    """Ask the student how likely the responses are: of each source up to `options.scored`, to the same questions.

    A student that is not there, or does not answer, is a reason and no error.

    Raises:
        DataError: a source cannot be read.
        ConfigError: a configuration cannot be read, or an option is wrong.
    """
    if not options.scored:
        return Scores()
    opened = open_sources(sources)
    student = student_of(opened, options)
    if student is None:
        return Scores(reason="no source says which model the student is; name one")
    if not student.base_urls() or student.base_urls() == (FAKE,):
        return Scores(reason="the student has no server and no model in this process; give its base_url")
    try:
        vocabulary = tokenizer_of(opened, options)
        assert vocabulary is not None
        likelihood = await likelihood_of(student, options.concurrency)
        try:
            reader = Reader(likelihood, vocabulary, Thinking(student.reasoning_format(), vocabulary))
            return await _score_all(opened, options, reader, student)
        finally:
            await likelihood.close()
    except (CompletionError, ModelError) as error:
        return Scores(reason=str(error))


async def _score_all(
    sources: Sequence[Source], options: AnalysisOptions, reader: Reader, student: SpeakerConfig
) -> Scores:
    by_source: dict[str, Sequence[Scored]] = {}
    refused: dict[str, int] = {}
    predicted: set[str] = set()
    for source in sources:
        responses = smallest(source.responses(), options.scored)
        async with AsyncExitStack() as stack:
            together = any(response.trajectory and response.trajectory.switches for response in responses)
            predictor = None if together else _predictor(source, responses, options, stack)
            teller = Teller(together, predictor, student.threshold)
            read = [_read(reader, teller, response) for response in responses]
            results = await _together(read, options.concurrency)
        by_source[source.name] = [result for result in results if result is not None]
        refused[source.name] = results.count(None)
        if predictor:
            predicted.add(source.name)
    return Scores(student.model, by_source, refused, frozenset(predicted), reason="")


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells style from capability in the responses of one source: by their spans, or by a predictor."""

    by_spans: bool
    predictor: BoundaryPredictor | None = None
    threshold: float = 0.5

    async def kinds(self, response: Response) -> Kinds | None:
        """Of the characters of its thinking; None where nobody tells."""
        if self.by_spans:
            return Kinds.of_spans(response.spans)
        return await predict(self.predictor, response.thinking, self.threshold) if self.predictor else None


async def _read(reader: Reader, teller: Teller, response: Response) -> Scored | None:
    return await reader.score(response, await teller.kinds(response))


def _predictor(
    source: Source, responses: Sequence[Response], options: AnalysisOptions, stack: AsyncExitStack
) -> BoundaryPredictor | None:
    """The boundary predictor for a source that one speaker wrote: the one asked for, else that speaker's own."""
    speakers = {span.speaker for response in responses for span in response.spans}
    own = section(source, next(iter(speakers))) if len(speakers) == 1 else None
    name = options.predictor or (own.predictor if own else None)
    if name is None or name == FAKE:
        return None
    predictor = load_predictor(model_name(name))
    if isinstance(predictor, TokenClassifier):
        stack.push_async_callback(predictor.close)
    return predictor


async def predict(predictor: BoundaryPredictor, text: str, threshold: float) -> Kinds | None:
    """The kinds of a text's characters by a boundary predictor, piece by piece; None of an empty text.

    Raises:
        ModelError: the predictor failed.
    """
    marks: list[tuple[int, Label]] = []
    for start, end in pieces(text):
        found = await predictor(text[max(0, start - CONTEXT) : start], text[start:end])
        marks += [
            (start + mark.start, Label.STYLE if mark.style >= threshold else Label.CAPABILITY)
            for mark in found
        ]
    if not marks:
        return None
    # What comes before the first mark has its kind; a character without one has the kind of the mark before it.
    starts = [0, *(at for at, _ in marks[1:]), len(text)]
    return Kinds(
        (label, max(0, end - start))
        for (_, label), start, end in zip(marks, starts[:-1], starts[1:], strict=True)
    )


def pieces(text: str) -> Iterable[tuple[int, int]]:
    """A text in pieces of about DRAFT characters, each up to the end of a word."""
    start = 0
    while start < len(text):
        blank = text.find(" ", start + DRAFT)
        end = blank if 0 <= blank < start + 2 * DRAFT else min(start + DRAFT, len(text))
        yield start, end
        start = end


def _sum(nats: Sequence[float]) -> Sum:
    return Sum(sum(nats), len(nats))


async def _together(works: Sequence[Awaitable[T]], at_once: int) -> list[T]:
    """The results of all works, so many at a time; the first failure ends all."""
    gate = asyncio.Semaphore(at_once)

    async def one(work: Awaitable[T]) -> T:
        async with gate:
            return await work

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
