"""Algorithm 1 with scripted completers: each rule and each way to end, with two vocabularies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.adapters.fakes import ByteTokenizer, PairTokenizer
from tessy.core.cooperate import Response, cooperate
from tessy.core.dialogue import Limits, Writer
from tessy.core.formats import FORMATS, Thinking
from tessy.protocols import Completion, Mark, Prompt
from tessy.questions import Message
from tessy.trajectory import Span, Speaker, Step, StopReason

STUDENT, TEACHER = Speaker.STUDENT, Speaker.TEACHER
BYTES, PAIRS = ByteTokenizer(), PairTokenizer()


async def by_case(context: str, draft: str) -> Sequence[Mark]:
    """A predictor for texts whose style is written in capitals."""
    return [Mark(i, float(char.isupper())) for i, char in enumerate(draft) if char.isalnum()]


@dataclass
class Lines:
    """A completer that gives one scripted text after the other, `</think>` and `<eos>` as tokens."""

    texts: list[str]
    tokenizer: ByteTokenizer
    tell_ids: bool = True
    spell: bool = False
    """Markers come as ordinary characters, which no token id gives away."""
    prompts: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    most: list[int | None] = field(default_factory=list)
    let_go_after: list[int] = field(default_factory=list)
    """How many completions there had been each time that the turn was over."""

    def let_go(self) -> None:
        self.let_go_after.append(len(self.prompts))

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        assert b"".join(prompt.json()).decode() == str(list(prompt.ids)).replace(" ", "")
        self.prompts.append(self.tokenizer.decode(prompt.ids))
        self.asked.append(max_tokens)
        self.most.append(most)
        text, finished, _ = self.texts.pop(0).partition("<eos>")
        encode = self.tokenizer.encode if self.spell else self.tokenizer.encode_markup
        ids = tuple(encode(text))[:max_tokens]
        if finished and len(ids) < max_tokens:
            ids += (self.tokenizer.eos_id,)
        if not self.tell_ids:
            return Completion(None, text, bool(finished))
        return Completion(ids, text, bool(finished))


@dataclass
class Scene:
    """Two scripted speakers and what they answered."""

    student: list[str]
    teacher: list[str]
    limits: Limits = field(default_factory=Limits)
    tell_ids: bool = True
    chunk: int = 100
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = {
            STUDENT: Lines(self.student, BYTES, self.tell_ids),
            TEACHER: Lines(self.teacher, PAIRS, self.tell_ids),
        }

    async def play(self, done: Sequence[Step] = (), **options: Speaker) -> Response:
        writers = {}
        for speaker, family in ((STUDENT, "qwen3"), (TEACHER, "deepseek_r1")):
            lines = self.lines[speaker]
            thinking = Thinking(FORMATS[family], lines.tokenizer)
            prompt = thinking.prompt([Message("user", "Q?")])
            writers[speaker] = Writer(lines, by_case, lines.tokenizer, thinking, prompt, self.chunk)
        return await cooperate(writers, self.limits, done=done, record=self.steps.append, **options)


def texts(response: Response) -> list[tuple[str, str]]:
    return [(span.speaker.value, span.text) for span in response.spans]


async def test_the_two_alternate_and_the_student_answers() -> None:
    scene = Scene(
        ["OKAY. two and", "NEXT. then", "</think>\n\nfoo", "It is 4.<eos>"],
        [" 2 + 2 = 4. NOW", " 4 it is. HM"],
    )
    response = await scene.play()
    assert texts(response) == [
        ("student", "OKAY."),
        ("teacher", " 2 + 2 = 4."),
        ("student", "NEXT."),
        ("teacher", " 4 it is."),
        ("student", ""),
    ]
    assert response.stop is StopReason.FINISHED
    assert response.answer == Span(STUDENT, "It is 4.", 8, 1, 9)


async def test_each_sees_its_own_prompt_and_exactly_the_kept_text() -> None:
    scene = Scene(["OKAY. two and", "</think>", "Yes.<eos>"], [" 2 + 2 = 4. NOW"])
    await scene.play()
    student, teacher = scene.lines[STUDENT].prompts, scene.lines[TEACHER].prompts
    head = "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert student == [head, head + "OKAY. 2 + 2 = 4.", head + "OKAY. 2 + 2 = 4.\n</think>\n\n"]
    assert teacher == ["<s><|user|>Q?<|assistant|><think>\nOKAY."]


@pytest.mark.parametrize("tell_ids", [True, False])
@pytest.mark.parametrize("speaker", Speaker)
async def test_either_may_end_the_thinking_and_what_follows_is_dropped(
    speaker: Speaker, tell_ids: bool
) -> None:
    if speaker is STUDENT:
        scene = Scene(["OKAY. THUS</think> dropped", "4<eos>"], [], tell_ids=tell_ids)
    else:
        scene = Scene(["OKAY. two", "4<eos>"], [" 2 + 2 = 4.\n</think>\n\ndropped"], tell_ids=tell_ids)
    response = await scene.play()
    assert response.spans[-1].speaker is speaker
    assert response.stop is StopReason.FINISHED
    assert "dropped" not in "".join(span.text for span in response.spans)
    assert scene.lines[STUDENT].prompts[-1].endswith("\n</think>\n\n")
    assert "\n\n</think>" not in scene.lines[STUDENT].prompts[-1]


async def test_a_marker_after_the_cut_is_not_the_end() -> None:
    scene = Scene(["OKAY. two</think>", "</think>", "4<eos>"], [" 2 + 2 = 4. NOW"])
    assert texts(await scene.play()) == [("student", "OKAY."), ("teacher", " 2 + 2 = 4."), ("student", "")]


@pytest.mark.parametrize("chunk", range(1, 12))
async def test_a_marker_spelled_over_chunk_edges(chunk: int) -> None:
    spelled = "OKAY. A < B, SO.</think>"
    pieces = [spelled[i : i + chunk] for i in range(0, len(spelled), chunk)]
    scene = Scene([*pieces, "4<eos>"], [], chunk=chunk)
    scene.lines[STUDENT].spell = True
    response = await scene.play()
    assert texts(response) == [("student", "OKAY. A < B, SO.")]
    assert response.spans[0].tokens == 16
    assert response.spans[0].drafted == len(spelled)


@dataclass
class Bytes(Lines):
    """Gives the bytes of a text one at a time, then ends the thinking and answers."""

    raw: bytes = b""

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        self.asked.append(len(prompt.ids))
        written = len(prompt.ids) - self.asked[0]
        if written < len(self.raw):
            return Completion((self.raw[written],), "", False)
        if written == len(self.raw):
            return Completion((self.tokenizer.end_think_id,), "", False)
        return Completion((52, self.tokenizer.eos_id), "4", True)


async def test_characters_split_over_chunks_come_out_whole() -> None:
    text = "Ä🙂É. "
    scene = Scene([], [], chunk=1)
    scene.lines[STUDENT] = Bytes([], ByteTokenizer(), raw=text.encode())
    response = await scene.play()
    assert texts(response) == [("student", text)]
    assert response.spans[0].tokens == len(text.encode())


async def test_a_fresh_speaker_goes_on_until_it_has_a_word() -> None:
    # The teacher's first draft is all style: it keeps its first word. The student's word is not complete: it goes on.
    scene = Scene(["OKAY. two", " th", "at is NOW", "</think>", "4<eos>"], [" NOPE 2.", " 2. HM"])
    assert texts(await scene.play())[:3] == [("student", "OKAY."), ("teacher", " NOPE"), ("student", " that")]


async def test_a_speaker_that_goes_on_may_keep_nothing() -> None:
    scene = Scene(["OKAY. ", "two", "</think>", "4<eos>"], [" 2. HM"], chunk=6)
    response = await scene.play()
    assert texts(response) == [("student", "OKAY. "), ("teacher", " 2."), ("student", "")]
    assert response.spans[0].drafts == 2
    assert response.spans[0].drafted == 9


# Ways to end that are no training data


async def test_no_thinking_at_all_is_empty() -> None:
    assert (await Scene(["</think>"], []).play()).stop is StopReason.EMPTY


@pytest.mark.parametrize("nothing", ["", "<eos>"])
async def test_an_empty_completion_is_asked_for_again_then_given_up(nothing: str) -> None:
    response = await Scene([nothing] * 3 + ["OKAY.</think>", "4<eos>"], []).play()
    assert response.stop is StopReason.FINISHED
    response = await Scene([nothing] * 4 + ["OKAY.</think>", "4<eos>"], []).play()
    assert response.stop is StopReason.EMPTY


async def test_a_turn_that_ends_in_the_thinking_ends_it() -> None:
    response = await Scene(["OKAY.<eos>", "4<eos>"], []).play()
    assert texts(response) == [("student", "OKAY.")]
    assert response.stop is StopReason.FINISHED
    response = await Scene(["OKAY.", "<eos>", "4<eos>"], [], chunk=5).play()
    assert response.stop is StopReason.FINISHED


async def test_the_thinking_limit_is_a_failure() -> None:
    scene = Scene(["OKAY. "] * 10, [], Limits(thinking_tokens=40), chunk=6)
    response = await scene.play()
    assert response.stop is StopReason.THINKING_LIMIT
    assert scene.lines[STUDENT].asked == [6, 6, 6, 6, 6, 6, 4]
    assert response.answer is None


async def test_the_thinking_limit_can_close_the_thinking() -> None:
    scene = Scene(["OKAY. "] * 5 + ["4<eos>"], [], Limits(thinking_tokens=30, close_thinking=True), chunk=6)
    response = await scene.play()
    assert response.stop is StopReason.CLOSED
    assert response.answer
    assert scene.lines[STUDENT].prompts[-1].endswith("OKAY. OKAY. OKAY. OKAY. OKAY. \n</think>\n\n")


async def test_the_context_limit_counts_what_each_sees() -> None:
    prompt = len(Thinking(FORMATS["qwen3"], ByteTokenizer()).prompt([Message("user", "Q?")]))
    scene = Scene(["OKAY. "] * 10, [], Limits(context_tokens=prompt + 10), chunk=6)
    assert (await scene.play()).stop is StopReason.CONTEXT_LIMIT
    assert scene.lines[STUDENT].asked == [6, 3]


@pytest.mark.parametrize(
    ("answer", "limit", "stop"),
    [
        ("x" * 50, 10, StopReason.ANSWER_LIMIT),
        ("<eos>", 10, StopReason.EMPTY),
        (" \n<eos>", 10, StopReason.EMPTY),
        ("go on and on " * 9 + "<eos>", None, StopReason.REPETITION),
    ],
)
async def test_a_bad_answer(answer: str, limit: int | None, stop: StopReason) -> None:
    response = await Scene(["OKAY.</think>", answer], [], Limits(answer_tokens=limit)).play()
    assert response.stop is stop
    assert response.answer is None


async def test_a_loop_ends_it() -> None:
    response = await Scene(["ON AND ON "] * 20, [], chunk=10).play()
    assert response.stop is StopReason.REPETITION


async def test_noise_that_is_no_text_ends_it() -> None:
    class Noise(Lines):
        async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
            return Completion((0xF0,) * 5, "", False)

    scene = Scene([], [])
    scene.lines[STUDENT] = Noise([], ByteTokenizer())
    assert not (await scene.play()).stop.kept


# Options of the paper


async def test_the_teacher_can_open_and_answer() -> None:
    scene = Scene(
        [
            "NOW two",
        ],
        ["so 2 HM", "2</think>", "4<eos>"],
    )
    response = await scene.play(opener=TEACHER, answerer=TEACHER)
    assert [span.speaker for span in response.spans] == [TEACHER, STUDENT, TEACHER]
    assert response.answer
    assert response.answer.speaker is TEACHER


# Steps: the journal


SCRIPT = (
    ["OKAY. two and", "NEXT. ", "GO. then", "</think>\n\nfoo", "It is 4.<eos>"],
    [" 2 + 2", " = 4. NOW", " 4 it is. HM"],
)


async def test_the_spans_are_what_was_recorded() -> None:
    scene = Scene(list(SCRIPT[0]), list(SCRIPT[1]), chunk=13)
    response = await scene.play()
    assert "".join(step.text for step in scene.steps) == "".join(span.text for span in response.spans)
    assert sum(len(step.ids) for step in scene.steps) == sum(span.tokens for span in response.spans)
    assert sum(step.drafted for step in scene.steps) == sum(span.drafted for span in response.spans)


@pytest.mark.parametrize("done", range(7))
async def test_it_goes_on_after_any_step(done: int) -> None:
    whole = Scene(list(SCRIPT[0]), list(SCRIPT[1]), chunk=13)
    expected = await whole.play()
    before = {speaker: sum(s.speaker is speaker for s in whole.steps[:done]) for speaker in Speaker}
    rest = Scene(SCRIPT[0][before[STUDENT] :], SCRIPT[1][before[TEACHER] :], chunk=13)
    assert await rest.play(done=whole.steps[:done]) == expected
    assert rest.steps == whole.steps[done:]
    for speaker in Speaker:
        assert rest.lines[speaker].prompts == whole.lines[speaker].prompts[before[speaker] :]


WORDS = st.sampled_from(
    ["OKAY", "so", "2+2", "HM", "=", "é", "É", "好", "\n", " ", "  ", "3.", "WAIT,", "🙂", "a" * 50]
)
SCRIPTS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=12, max_size=12)


@given(SCRIPTS, SCRIPTS, st.integers(1, 20), st.booleans())
async def test_it_always_ends_and_the_books_balance(
    student: list[str], teacher: list[str], chunk: int, tell_ids: bool
) -> None:
    scene = Scene(
        [*student * 40], [*teacher * 40], Limits(thinking_tokens=60, close_thinking=True), tell_ids, chunk
    )
    scene.lines[STUDENT].texts[-1] = "4<eos>"
    response = await scene.play()
    assert response.stop in StopReason
    thinking = "".join(span.text for span in response.spans)
    assert thinking == "".join(step.text for step in scene.steps)
    speakers = [span.speaker for span in response.spans]
    assert all(a is not b for a, b in pairwise(speakers))
    assert all(span.text.strip() for span in response.spans[:-1]), (
        "a speaker that was switched to keeps a word"
    )
    # What each sees is its prompt and the kept text; only what it held back at the end may be gone.
    for lines in scene.lines.values():
        for prompt in lines.prompts:
            seen = prompt.partition("<think>\n")[2].partition("\n</think>")[0]
            assert thinking.replace("\ufffd", "").startswith(seen.replace("\ufffd", "").rstrip())


# What may go on ahead


async def test_a_completer_is_told_what_the_turn_may_have_and_when_it_is_over() -> None:
    scene = Scene(
        ["OKAY. two", "NEXT. then", "</think>", "4<eos>"],
        [" 2 + ", "2 = 4. NOW", " 4 it is. HM"],
        Limits(60, 200),
    )
    scene.chunk = 10
    spans = (await scene.play()).spans
    student, teacher = scene.lines[STUDENT], scene.lines[TEACHER]
    assert teacher.asked == [10, 10, 10]
    kept = len("OKAY.")
    assert teacher.most == [
        60 - kept,
        60 - kept - len(PAIRS.encode(" 2 + ")),
        60 - sum(s.tokens for s in spans[:3]),
    ]
    assert student.most[-1] is None, "an answer is asked for at once"
    assert teacher.let_go_after == [2, 3, 3], "at each switch, and at the end"
    assert student.let_go_after == [1, 2, 3, 4], "and at the end of the thinking"


async def test_whatever_goes_wrong_the_completers_are_let_go() -> None:
    class Broken(Lines):
        async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
            raise RuntimeError("no")

    scene = Scene([], [])
    scene.lines[STUDENT] = Broken([], ByteTokenizer())
    with pytest.raises(RuntimeError):
        await scene.play()
    assert scene.lines[STUDENT].let_go_after == scene.lines[TEACHER].let_go_after == [0]
