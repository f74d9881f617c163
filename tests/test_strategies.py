"""Each strategy with scripted speakers: who writes what, against a plain reading of it, and from any interruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.adapters.fakes import ByteTokenizer, FakeEngine, PairTokenizer, ScriptedModel, Voice
from tessy.adapters.store import Store, from_row, to_row
from tessy.core.cooperate import Response
from tessy.core.dialogue import Limits, Writer
from tessy.core.formats import FORMATS, Thinking
from tessy.core.strategies import STRATEGIES, Grade, Grader, Job, Strategy, no_boundary
from tessy.core.strategies.reference import with_reference
from tessy.core.strategies.score import BEST, PROMPT, best, parse_score
from tessy.core.strategies.ways import mixed
from tessy.protocols import Completer, Completion, Prompt
from tessy.questions import Message, Question, under
from tessy.trajectory import Choice, Speaker, Step, StopReason, Trajectory

STUDENT, TEACHER = Speaker.STUDENT, Speaker.TEACHER
VOCABULARY = {STUDENT: ByteTokenizer(), TEACHER: PairTokenizer()}
FAMILY = {STUDENT: "qwen3", TEACHER: "deepseek_r1"}
QUESTION = Question((Message("user", "What is 3 + 3?"),))


def model(speaker: Speaker, part: str = "") -> ScriptedModel:
    """Who writes a part: its script differs from part to part, as draws do."""
    return ScriptedModel(VOCABULARY[speaker], Voice[speaker.name], salt=crc32(part.encode()) % 97)


def thinking(speaker: Speaker) -> Thinking:
    return Thinking(FORMATS[FAMILY[speaker]], VOCABULARY[speaker])


@dataclass
class Says:
    """A completer that says a text after a prompt of `head` tokens: thinking, `</think>` as a token, and an answer."""

    text: str
    tokenizer: ByteTokenizer
    head: int

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        if "</think>" in self.tokenizer.decode(prompt.ids[self.head :]):
            ids = self.tokenizer.encode(self.text.partition("</think>")[2])
        else:
            ids = self.tokenizer.encode_markup(self.text)[len(prompt.ids) - self.head :]
        ids.append(self.tokenizer.eos_id)
        return Completion(tuple(ids[:max_tokens]), "", len(ids) <= max_tokens)

    def let_go(self) -> None:
        """Nothing goes on."""


@dataclass
class Cast:
    """Hires scripted speakers; `lines` are what is said instead in a part."""

    lines: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    candidates: int = 3
    grader: Grader | None = None
    system: dict[Speaker, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    asked: dict[tuple[Speaker, str], Sequence[Message]] = field(default_factory=dict)
    engines: list[FakeEngine] = field(default_factory=list)

    def hire(self, speaker: Speaker, messages: Sequence[Message], part: str) -> Writer:
        self.asked[speaker, part] = messages
        engine = FakeEngine(model(speaker, part))
        self.engines.append(engine)
        complete: Completer = engine.completer("", seed=None, deadline=None)
        prompt, tokenizer = thinking(speaker).prompt(messages), VOCABULARY[speaker]
        if part in self.lines:
            complete = Says(self.lines[part], tokenizer, len(prompt))
        return Writer(complete, no_boundary, tokenizer, thinking(speaker), prompt, chunk=50)

    async def play(
        self, strategy: Strategy, question: Question = QUESTION, done: Sequence[Step] = ()
    ) -> Response:
        job = Job(
            question,
            {speaker: under(self.system.get(speaker, ""), question.messages) for speaker in Speaker},
            self.limits,
            self.hire,
            list(done),
            self.steps.append,
            candidates=self.candidates,
            grader=self.grader,
        )
        return await STRATEGIES[strategy](job)

    @property
    def requests(self) -> int:
        return sum(engine.stats.requests for engine in self.engines)


def plainly(
    thinker: Speaker, answerer: Speaker, messages: Sequence[Message] = QUESTION.messages, part: str = ""
) -> tuple[str, str]:
    """What a strategy of one thinker and one answerer reads like without steps, chunks and journals."""
    head = thinking(thinker).prompt(messages)
    written = model(thinker, part).write(head, 10_000)
    thought, marker, _ = VOCABULARY[thinker].decode(written.ids or ()).partition("</think>")
    assert marker
    head = thinking(answerer).prompt(messages) + VOCABULARY[answerer].encode(thought)
    answer = model(answerer, part).write(head + thinking(answerer).closing(thought), 10_000)
    return thought, answer.text


def read(response: Response) -> tuple[str, str]:
    assert response.answer
    return "".join(span.text for span in response.spans), response.answer.text


async def by_length(job: Job, candidate: Response, part: str) -> Grade:
    """A grader for tests: the shorter the better."""
    return Grade(-float(len("".join(span.text for span in candidate.spans))))


# Who writes what


@pytest.mark.parametrize("strategy", [each for each in Strategy if each.writers])
async def test_thinking_and_answer_are_written_by_whom_they_should_be(strategy: Strategy) -> None:
    cast = Cast(candidates=1, grader=by_length)
    response = await cast.play(strategy)
    assert strategy.writers
    thinker, answerer = strategy.writers
    assert [span.speaker for span in response.spans] == [thinker]
    assert response.answer
    assert response.answer.speaker is answerer
    assert response.stop is StopReason.FINISHED
    if strategy not in (Strategy.TEACHER_SCORE, Strategy.TEACHER_REFERENCE):
        assert read(response) == plainly(thinker, answerer)
        assert {speaker for speaker, _ in cast.asked} == {thinker, answerer}
        assert response.asides == ()


async def test_the_reference_is_shown_to_the_student_alone() -> None:
    cast = Cast(system={TEACHER: "Be right.", STUDENT: "Be yourself."})
    response = await cast.play(Strategy.TEACHER_REFERENCE)
    asked = under("Be right.", QUESTION.messages)
    _, reference = plainly(TEACHER, TEACHER, asked, "reference")
    assert cast.asked[TEACHER, "reference"] == asked
    shown = with_reference(under("Be yourself.", QUESTION.messages), reference)
    assert cast.asked[STUDENT, ""] == shown
    assert reference.strip() in shown[-1].content
    assert shown[-1].content.startswith(QUESTION.text)
    assert read(response) == plainly(STUDENT, STUDENT, shown)
    (told,) = response.asides
    assert (told.part, told.speaker, told.text) == ("reference", TEACHER, reference)


def test_braces_of_others_stay_text() -> None:
    asked = with_reference([Message("system", "S"), Message("user", "{reference} {0}")], "{question}")
    assert asked[0] == Message("system", "S")
    assert asked[1].content.startswith("{reference} {0}\n")
    assert asked[1].content.endswith("{question}")


async def test_without_a_reference_nothing_is_written() -> None:
    cast = Cast(lines={"reference": "so it goes </think>\n\n" + "6 and " * 60})
    response = await cast.play(Strategy.TEACHER_REFERENCE)
    assert response.stop is StopReason.REPETITION
    assert response.spans == ()
    assert (STUDENT, "") not in cast.asked
    assert response.asides[0].drafted > 100  # the bad answer's tokens, too


@given(st.text(), st.integers())
def test_a_question_is_mixed_by_its_content_alone(text: str, row: int) -> None:
    messages = (Message("user", text),)
    assert mixed(Question(messages, {"row": row})) is mixed(Question(messages))


async def test_the_mix_is_one_to_one() -> None:
    questions = [Question((Message("user", f"What is {n} + {n}?"),)) for n in range(1000)]
    teacher = [question for question in questions if mixed(question) is TEACHER]
    assert 450 < len(teacher) < 550
    assert read(await Cast().play(Strategy.TEACHER_MIX, teacher[0])) == plainly(
        TEACHER, TEACHER, teacher[0].messages
    )


# Candidates and grades


async def test_the_best_candidate_is_taken_as_it_was_written() -> None:
    cast = Cast(grader=by_length)
    response = await cast.play(Strategy.TEACHER_SCORE)
    written = [plainly(STUDENT, STUDENT, part=f"candidate {number}") for number in range(3)]
    lengths = [len(thought) for thought, _ in written]
    assert len(set(lengths)) > 1, "the candidates differ"
    taken = lengths.index(min(lengths))
    assert read(response) == written[taken]
    assert response.choice == Choice(taken, tuple(-float(length) for length in lengths), 0, 0)
    assert [told.part for told in response.asides] == [f"candidate {n}" for n in range(3) if n != taken]


async def test_the_teacher_grades_what_it_is_shown() -> None:
    grades = {f"grade {n}": f"so\n</think>\n\nScore: {score}" for n, score in enumerate((4, 9, 9))}
    cast = Cast(lines=grades)
    response = await cast.play(Strategy.TEACHER_SCORE)
    assert response.choice == Choice(1, (4.0, 9.0, 9.0), failed=0, unparsable=0)
    assert response.choice.tied == 1
    thought, answer = plainly(STUDENT, STUDENT, part="candidate 2")
    (asked,) = cast.asked[TEACHER, "grade 2"]
    assert asked.content == PROMPT.format(
        question=QUESTION.text, thinking=thought.strip(), answer=answer.strip()
    )
    told = {each.part: each for each in response.asides}
    assert list(told) == ["candidate 0", "candidate 2", "grade 0", "grade 1", "grade 2"]
    assert told["grade 1"].text == "Score: 9"
    assert told["grade 1"].speaker is TEACHER
    assert told["candidate 0"].text == ""


async def test_grades_that_cannot_be_read_are_counted_and_rank_last() -> None:
    cast = Cast(lines={"grade 2": "so\n</think>\n\nScore: 0"})  # the others speak of something else
    response = await cast.play(Strategy.TEACHER_SCORE)
    assert response.choice == Choice(2, (None, None, 0.0), failed=0, unparsable=2)
    response = await Cast().play(Strategy.TEACHER_SCORE)
    assert response.choice == Choice(0, (None, None, None), failed=0, unparsable=3)


LOOP = "on and on, " * 100


async def test_a_candidate_that_fails_is_not_eligible_and_not_graded() -> None:
    cast = Cast(lines={"candidate 0": LOOP}, grader=by_length)
    response = await cast.play(Strategy.TEACHER_SCORE)
    assert response.choice
    assert response.choice.scores[0] is None
    assert response.choice.taken != 0
    assert (response.choice.failed, response.choice.unparsable) == (1, 0)
    failed = response.asides[0]
    assert (failed.part, failed.stop) == ("candidate 0", StopReason.REPETITION)
    assert failed.drafted > 0


@pytest.mark.parametrize(
    ("lines", "stop"),
    [
        ((LOOP, LOOP, "</think>"), StopReason.REPETITION),
        (("</think>", LOOP, LOOP), StopReason.REPETITION),
        (("</think>", LOOP), StopReason.EMPTY),  # as often: the first
    ],
)
async def test_where_none_is_left_the_commonest_reason_is_told(
    lines: Sequence[str], stop: StopReason
) -> None:
    spoken = {f"candidate {number}": line for number, line in enumerate(lines)}
    response = await Cast(spoken, candidates=len(lines)).play(Strategy.TEACHER_SCORE)
    assert response.stop is stop
    assert response.spans == ()
    assert response.choice is None
    assert len(response.asides) == len(lines)


async def test_of_a_long_thinking_the_grader_sees_the_ends() -> None:
    """Half of the context is left to grade in; an answer that is too long by itself is no reason to go on for ever."""
    long = "word " + "".join(f"w{n} " for n in range(2000)) + "last"
    for answer, context in (("It is 6.", 12_000), ("It is 6. " + "x" * 9000, 16_000)):
        cast = Cast({"candidate 0": f"{long}</think>\n\n{answer}"}, Limits(context_tokens=40_000), 1)
        await cast.play(Strategy.TEACHER_SCORE)
        (whole,) = cast.asked[TEACHER, "grade 0"]
        assert long in whole.content
        done = cast.steps[: next(n for n, step in enumerate(cast.steps) if step.ended) + 1]
        cast = Cast(limits=Limits(context_tokens=context), candidates=1)
        await cast.play(Strategy.TEACHER_SCORE, done=done)
        (asked,) = cast.asked[TEACHER, "grade 0"]
        prompt = thinking(TEACHER).prompt([asked])
        assert answer in asked.content
        assert "characters are left out here" in asked.content
        if len(answer) < 100:
            assert context // 4 < len(prompt) <= context // 2
            assert "word w0 w1 w2" in asked.content
            assert "w1999 last" in asked.content


SCORES = [
    ("Score: 7", 7),
    ("**Score: 8**", 8),
    ("**Score:** 8/10", 8),
    ("**Score:** **8**/10", 8),
    ("score is 10 out of 10.", 10),
    ("Score: 8 (out of 10)", 8),
    ("Score: \\boxed{8}", 8),
    ("Score: $\\boxed{9}$", 9),
    ("Score:\n\n8\r\n", 8),
    ("Score: [8]", 8),
    ("Score: 6.5", 6.5),
    ("Score: 8, since the detour is long.", 8),
    ("Score: 8. The score is low for a reason.", 8),
    ("Score: 8\n\nThe scores of others may differ.", 8),
    ("I first thought Score: 3, but no.\nScore: 5\n", 5),
    ("A score of 10 would need a proof.\nScore: 6", 6),
    ("Score: 0", 0),
    # The scale, said before the score or alone
    ("Score (0-10): 8", 8),
    ("**Score (0 – 10):** 8/10", 8),
    ("Score (0 to 10): 8", 8),
    ("Score [out of 10] = 8", 8),
    ("Score (/10): 8", 8),
    ("Score (0-100): 8", None),
    ("Score (1-5): 4", None),
    ("Score (0-10)", None),
    ("Score (10):\n8", None),
    ("Score (10)", None),
    ("Score on a scale of 0 to 10: 8", None),
    ("Score: 3 for its style.\nScore (out of ten): 8", None),
    # Another scale
    ("Score: 11", None),
    ("Score: 7/100", None),
    ("Score: 7/8", None),
    ("Score: 4 out of five", None),
    ("Score: 8%", None),
    ("Score: 700", None),
    ("Score: 8\nScore: 80", None),
    # More than one number, or another one than it seems
    ("Score: 0-10", None),
    ("Score: 7-8", None),
    ("Score: 7–8", None),
    ("Score: 7 to 8", None),
    ("Score: 7 or eight", None),
    ("Score: 7, maybe 8", None),
    ("Score: 7/10/10", None),
    ("Score: -3", None),
    ("Score: 8,5", None),
    ("Score: 8.12345", None),
    ("Score: 1e1", None),
    ("Score: 8½", None),
    ("Score: about 8", None),
    ("Score 1: 4", None),
    ("Score 2 - style: good", None),
    # Something else
    ("Score: 3 at first.\nScore: N", None),
    ("Score: 3 at first.\nScore: eight", None),
    ("\\boxed{8}", None),
    ("The score could be anything", None),
    ("Answer: 6", None),
    ("underscore: 4", None),
    ("The z-score: 2", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "score"), SCORES)
def test_how_a_score_is_read(text: str, score: float | None) -> None:
    assert parse_score(text) == score


@given(st.text())
def test_any_text_has_a_score_in_range_or_none(text: str) -> None:
    for tried in (text, f"Score: {text}"):
        score = parse_score(tried)
        assert score is None or 0 <= score <= BEST


@given(
    st.integers(0, 99),
    st.sampled_from(["-", "–", " - ", "/", " to ", " or ", ", ", ".", " "]),
    st.integers(0, 99),
)
def test_of_two_numbers_none_is_guessed(first: int, between: str, second: int) -> None:
    stated = between.strip() == "/" and second == BEST and first <= BEST
    decimal = between == "." and float(f"{first}.{second}") <= BEST
    expected = first if stated else float(f"{first}.{second}") if decimal else None
    assert parse_score(f"Score: {first}{between}{second}") == expected


SCORED = st.lists(
    st.tuples(st.sampled_from([None, 0.0, 3.0, 10.0]), st.sampled_from(list(StopReason))), min_size=1
)


@given(SCORED)
def test_which_candidate_is_taken(given: list[tuple[float | None, StopReason]]) -> None:
    candidates = [Response((), None, stop) for _, stop in given]
    taken = best(candidates, [score for score, _ in given])
    ranked = [(-1.0 if score is None else score) if stop.kept else -2.0 for score, stop in given]
    assert taken == (ranked.index(max(ranked)) if max(ranked) > -2 else None)


@pytest.mark.parametrize(
    ("choice", "tied"),
    [
        (Choice(0, (9.0, 4.0, None), failed=1, unparsable=0), 0),
        (Choice(1, (4.0, 9.0, 9.0, 9.0), failed=0, unparsable=0), 2),
        (Choice(0, (0.0, 0.0, None), failed=0, unparsable=1), 1),
        (Choice(2, (None, None, 0.0), failed=1, unparsable=1), 0),
        (Choice(0, (None, None, None), failed=0, unparsable=3), 2),
        (Choice(1, (None, None, None), failed=2, unparsable=1), 0),
        (Choice(0, (5.0,), failed=0, unparsable=0), 0),
    ],
)
def test_a_tie_is_told(choice: Choice, tied: int) -> None:
    """Where no grade could be read, all that were graded are equals; those that failed are none."""
    assert choice.tied == tied


@given(SCORED)
def test_who_is_tied_could_have_been_taken(given: list[tuple[float | None, StopReason]]) -> None:
    """Of equals the first is taken: without it, the next one of them is."""
    scored = [(score if stop.kept else None, stop) for score, stop in given]
    failed = sum(not stop.kept for _, stop in scored)
    candidates, scores = [Response((), None, stop) for _, stop in scored], [score for score, _ in scored]
    taken = best(candidates, scores)
    if taken is not None:
        choice = Choice(taken, tuple(scores), failed, unparsable=scores.count(None) - failed)
        rest = [Response((), None, StopReason.EMPTY), *candidates[taken + 1 :]]
        again = best(rest, scores[taken:])
        assert (choice.tied > 0) == (again is not None and scores[taken + again] == scores[taken])


# Interruptions, the journal and the row


RESUMED = [
    (strategy, lines)
    for strategy in Strategy
    if not strategy.takes_turns
    for lines in ({}, {"candidate 1": LOOP, "grade 0": "so\n</think>\n\nScore: 8"})
    if not lines or strategy is Strategy.TEACHER_SCORE
]


@pytest.mark.parametrize(("strategy", "lines"), RESUMED)
async def test_it_goes_on_from_any_step(tmp_path: Path, strategy: Strategy, lines: dict[str, str]) -> None:
    """A part that has ended asks nobody again, and one under way nothing that was written."""
    limits = Limits(answer_tokens=200)
    whole = Cast(lines, limits)
    expected = await whole.play(strategy)
    store = Store(tmp_path)
    for step in whole.steps:
        store.record("t", step)
    steps = store.steps("t")
    await store.close()
    assert steps == whole.steps
    for count in range(len(steps) + 1):
        rest = Cast(lines, limits)
        assert await rest.play(strategy, done=steps[:count]) == expected
        assert rest.steps == whole.steps[count:]
        assert rest.requests <= whole.requests
    assert rest.requests == (0 if strategy is Strategy.TEACHER_SCORE else 1)  # the trajectory's own answer


@pytest.mark.parametrize("strategy", [Strategy.TEACHER_SCORE, Strategy.TEACHER_REFERENCE])
async def test_what_was_written_on_the_side_is_counted(strategy: Strategy) -> None:
    cast = Cast()
    response = await cast.play(strategy)
    row = Trajectory(
        QUESTION, 0, response.spans, response.answer, response.stop, asides=response.asides, system="S"
    )
    row = replace(row, choice=response.choice)
    assert row.drafted() == sum(engine.stats.generated for engine in cast.engines)
    assert row.drafts() == cast.requests
    assert row.tokens(TEACHER) == 0 < row.drafted(TEACHER)
    assert row.tokens() < row.drafted(STUDENT) + row.drafted(TEACHER)
    assert row.messages == (Message("system", "S"), *QUESTION.messages)


async def test_rows_and_journals_of_an_earlier_tessy_are_read(tmp_path: Path) -> None:
    """Rows without the new fields, and steps without parts."""
    response = await Cast(grader=by_length).play(Strategy.TEACHER_SCORE)
    row = Trajectory(QUESTION, 0, response.spans, response.answer, response.stop)
    assert not {"system", "asides", "choice"} & to_row(row).keys()
    chosen = replace(row, index=1, choice=response.choice)
    store = Store(tmp_path)
    await store.keep(row)
    assert store.totals().choices == {}
    store._execute("INSERT INTO steps VALUES ('t', 0, ?)", (OLD_STEP,))
    assert store.steps("t") == [Step(STUDENT, "Okay", (1, 2), 5, (7,), switch=True)]
    await store.keep(chosen)
    assert store.totals().choices == {"rows": 1, "candidates": 3, "failed": 0, "unparsable": 0, "tied": 0}
    await store.close()


OLD_STEP = b'{"speaker":"student","text":"Okay","ids":[1,2],"drafted":5,"tail":[7],"switch":true,"ends_thinking":false}'


def test_a_row_comes_back_as_it_was() -> None:
    choice = Choice(1, (None, 3.5), failed=1, unparsable=0)
    row = Trajectory(QUESTION, 0, (), None, StopReason.FINISHED, system="S", choice=choice)
    stored = to_row(row) | {"messages": [{"role": "user", "content": QUESTION.text}], "spans": []}
    stored["choice"] = {"taken": 1, "scores": [None, 3.5], "failed": 1, "unparsable": 0}
    assert from_row(stored) == row


def test_a_system_prompt_comes_before_a_question_that_has_one() -> None:
    own = (Message("system", "Be brief."), Message("user", "Q"))
    assert under("", own) == own
    assert under("You are T.", own) == (Message("system", "You are T.\n\nBe brief."), Message("user", "Q"))
    assert under("You are T.", own[1:]) == (Message("system", "You are T."), Message("user", "Q"))
