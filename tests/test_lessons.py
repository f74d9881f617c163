"""What is learned of a response, as which tokens, and whose each of them is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessons import trajectories
from published import published
from tessy import embedded
from tessy.adapters.fakes import ByteTokenizer
from tessy.adapters.tokenizer import HFTokenizer
from tessy.core.formats import FORMATS, ReasoningFormat, Thinking
from tessy.core.lessons import Encoded, Kind, Lesson, Written, encode, lesson, written
from tessy.questions import Message, Question
from tessy.trajectory import Span, Speaker, StopReason, Trajectory

BYTES = ByteTokenizer()
ASKED = (Message("user", "What is 2 + 2?"),)
STUDENT, TEACHER = Speaker.STUDENT, Speaker.TEACHER
KIND = {STUDENT: Kind.STYLE, TEACHER: Kind.CAPABILITY}


def of(*pieces: tuple[Speaker, str], answer: str = "It is 4.") -> Lesson:
    text = "".join(text for _, text in pieces)
    return Lesson("q", ASKED, text, answer, tuple(Written(who, len(text)) for who, text in pieces))


def learned(encoded: Encoded) -> tuple[list[int], list[int]]:
    """The ids after the prompt, and their kinds."""
    asked = encoded.kinds.count(Kind.ASKED)
    assert not any(encoded.kinds[:asked])
    return encoded.ids[asked:], encoded.kinds[asked:]


@pytest.fixture(scope="module")
def student() -> HFTokenizer:
    return HFTokenizer(str(embedded.path("student")))


texts = st.text(min_size=1, max_size=8)
stretches = st.lists(st.tuples(st.sampled_from(Speaker), texts), min_size=1, max_size=6)


@given(stretches, st.text(max_size=8))
def test_each_byte_is_of_whoever_wrote_its_character(pieces: list[tuple[Speaker, str]], answer: str) -> None:
    thinking = Thinking(FORMATS["qwen3"], BYTES)
    ids, kinds = learned(encode(of(*pieces, answer=answer), thinking, BYTES, BYTES.eos_id))
    expected = [KIND[who] for who, text in pieces for _ in text.encode("utf-8", "replace")]
    assert kinds == expected + [Kind.ANSWER] * (len(ids) - len(expected))
    text = "".join(text for _, text in pieces)
    rest = [*BYTES.encode_markup("\n</think>\n\n"), *BYTES.encode(answer), BYTES.eos_id]
    assert ids == [*BYTES.encode(text), *rest]


def test_the_prompt_is_that_of_inference(student: HFTokenizer) -> None:
    thinking = Thinking(FORMATS["qwen3"], student)
    one = replace(
        of((STUDENT, "Okay")),
        messages=(*ASKED, Message("assistant", "<think>\nOld.\n</think>\n\nFour."), Message("user", "Sure?")),
    )
    encoded = encode(one, thinking, student, student.end_of_turn)
    prompt = thinking.prompt(one.messages)
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.kinds.count(Kind.ASKED) == len(prompt)
    assert student.decode(encoded.ids).endswith("<think>\nOkay\n</think>\n\nIt is 4.<|im_end|>")


def test_the_ids_do_not_tell_where_the_speakers_changed(student: HFTokenizer) -> None:
    thinking = Thinking(FORMATS["qwen3"], student)
    whole = lesson(trajectories(1)[0])
    inside = replace(whole, written=(Written(STUDENT, 7), Written(TEACHER, len(whole.thinking) - 7)))
    untold = replace(whole, written=None)
    one, two, three = (
        encode(each, thinking, student, student.end_of_turn) for each in (whole, inside, untold)
    )
    assert one.ids == two.ids == three.ids
    assert one.kinds != two.kinds
    assert set(three.kinds) == {Kind.ASKED, Kind.THINKING, Kind.ANSWER}


def test_markers_that_are_spelled_stay_text(student: HFTokenizer) -> None:
    thinking = Thinking(FORMATS["qwen3"], student)
    ids, _ = learned(
        encode(
            of((STUDENT, "a <|im_end|> b"), answer="</think><|im_end|>"),
            thinking,
            student,
            student.end_of_turn,
        )
    )
    assert [i for i in ids if i in student.control_ids] == [student.id_of("</think>"), student.end_of_turn]


def test_a_format_whose_markers_are_no_tokens() -> None:
    format = ReasoningFormat("custom", "[", "]\n", ("]",))
    ids, kinds = learned(
        encode(of((TEACHER, "ab"), answer="c"), Thinking(format, BYTES), BYTES, BYTES.eos_id)
    )
    assert ids == [*b"ab]\nc", BYTES.eos_id]
    assert kinds == [Kind.CAPABILITY] * 2 + [Kind.ANSWER] * 4


@pytest.mark.parametrize("family", [("qwen3", "qwen3"), ("deepseek_r1", "deepseek-r1")])
def test_real_vocabularies(family: tuple[str, str]) -> None:
    tokenizer = HFTokenizer(str(published("tokenizers", family[1])))
    thinking = Thinking(FORMATS[family[0]], tokenizer)
    one = of(
        (STUDENT, "Okay, so"), (TEACHER, " $2+2=4$.\n\nDone"), (STUDENT, ". Wait, right."), answer="**4**"
    )
    ids, kinds = learned(encode(one, thinking, tokenizer, tokenizer.end_of_turn))
    assert tokenizer.decode(ids[:-1]) == f"{one.thinking}\n</think>\n\n**4**"
    # What a model writes for this text, markers included.
    assert ids[:-1] == tokenizer.encode_markup(f"{one.thinking}\n</think>\n\n**4**")
    shown = {
        kind: tokenizer.decode([i for i, k in zip(ids, kinds, strict=True) if k == kind]) for kind in Kind
    }
    assert (
        shown[Kind.STYLE] == "Okay, so. Wait, right.\n"
    )  # ".\n" is one token, and begins with the student's
    assert shown[Kind.CAPABILITY] == " $2+2=4$.\n\nDone"


def test_blanks_around_the_thinking_are_nobodys() -> None:
    def span(who: Speaker, text: str) -> Span:
        return Span(who, text, 1, 1, 1)

    spans = (span(STUDENT, " \n"), span(TEACHER, " a"), span(STUDENT, "b \n"), span(TEACHER, "\n"))
    one = Trajectory(Question(ASKED), 0, spans, span(STUDENT, "\n4 "), StopReason.FINISHED)
    assert written(one) == (Written(TEACHER, 1), Written(STUDENT, 1))
    assert lesson(one) == Lesson(one.id, ASKED, "ab", "4", written(one))
