import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from published import published
from tessy.adapters.maths import MathVerify
from tessy.core.answers import (
    Gold,
    chosen,
    gold_error,
    gold_of,
    is_right,
    last_boxed,
    stated,
    states_an_answer,
)
from tessy.embedded.world import HARD, check, problems


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Answer: C", "C"),
        ("ANSWER: (C).", "C"),
        ("**Answer:** C", "C"),
        ("**Answer: C**", "C"),
        (r"Answer: $\boxed{C}$.", "C"),
        (r"Answer: $\boxed{\text{C}}$", "C"),
        ("The final answer to this question is: A.", None),  # too far from the letter
        ("The final answer is: C.", "C"),
        ("The correct answer is (C)", "C"),
        (r"The best option is $\boxed{C}:", "C"),
        ("The correct option is **C**", "C"),
        ("THE ANSWER IS (C)", "C"),
        ("So The Answer Is C.", "C"),
        ("**Answer:** (C)", "C"),
        ("Answer: C, as shown", "C"),
        ("C", "C"),
        ("(C).", "C"),
        ("[C]:", "C"),
        (r"$\boxed{C}$", "C"),
        ("Reasons of all kinds.\n\nAnswer: J", "J"),
        ("Answer: A\nNo, wait.\nAnswer: C", "C"),  # the last line first
        ("Answer: C\nI hope this helps.", "C"),  # then anywhere
        ("Answer: C) 42", "C"),
        ("Answer: K", None),
        ("Answer: Cats are nice", None),
        ("The answer is a matter of taste", None),
        ("Answer: c", None),
        ("Nothing chosen here", None),
        ("", None),
    ],
)
def test_the_letter_that_is_chosen(answer: str, letter: str | None) -> None:
    assert chosen(answer) == letter


def test_an_option_may_be_spelled_out() -> None:
    options = ["10 times more", "100 times more", "10000 times more"]
    assert chosen("The answer is 10000 times more.", options) == "C"
    assert chosen("The answer is **100 times more**", options) == "B"
    assert chosen("The answer is 7 times more", options) is None
    assert chosen("Answer: D", options) is None  # there are three
    assert chosen(r"The answer is \(x^2\)", [r"x^2", "y"]) == "A"


@pytest.mark.parametrize(
    ("answer", "gold", "kind", "right"),
    [
        ("Answer: C", "C", "choice", True),
        ("Answer: C", "(c)", "choice", True),
        ("Answer: B", "C", "choice", False),
        ("I do not know.", "C", "choice", False),
        ("Answer: C", "42", "choice", None),
        ("Answer: C", "AB", "choice", None),
        ("Answer: C", "", "choice", None),
        ("The answer is 379.", "379", "exact", True),
        ("The answer is 378.", "379", "exact", False),
        ("The answer is 1,379.", "1379", "exact", True),
        ("The answer is Apple, Pear.", "apple  pear", "exact", True),
        ("Answer: Paris\n\nIt is the capital.", "paris", "exact", True),
        ("It might be Paris", "Paris", "exact", False),
        ("Paris", "Paris", "exact", True),
        (r"So \boxed{Paris}.", "Paris", "exact", True),
        ("The answer is ５.", "5", "exact", True),
        ("", "Paris", "exact", False),
        ("The answer is 379.", "379.0", "math", True),
        (r"\boxed{1{,}000}", "1000", "math", None),  # without algebra
        ("She makes 18.\n#### 18", "18", "math", True),
        ("She makes $18.\n#### $18", "18", "math", True),
        ("#### 17", "18", "math", False),
        (r"\boxed{\frac12}", "0.5", "math", None),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "math", True),
        # An unknown kind: only what is certain.
        ("The answer is 379.", "379", "", True),
        ("The answer is 378.", "379", "", False),
        ("The answer is Rome.", "Paris", "", None),
        ("The answer is Rome.", "Paris", "essay", None),
    ],
)
def test_right_wrong_or_not_to_be_judged(answer: str, gold: str, kind: str, right: bool | None) -> None:
    assert is_right(answer, gold, kind) is right


@pytest.mark.parametrize(
    ("gold", "kind", "problem"),
    [
        ("C", "choice", None),
        ("apple", "choice", "expected the letter of an option, found 'apple'"),
        ("", "exact", "expected an answer, found no text"),
        ("  ", "math", "expected an answer, found no text"),
        (["C"], "choice", "expected text, found list"),
        (None, "math", "expected text, found NoneType"),
        ("42", "math", None),
    ],
)
def test_a_gold_answer_of_an_unknown_form_is_named(gold: object, kind: str, problem: str | None) -> None:
    assert gold_error(gold, kind) == problem


@pytest.mark.parametrize(
    ("metadata", "kind", "gold"),
    [
        (
            {"answer": "C", "answer_kind": "choice", "options": ["a", "b", "c"]},
            "",
            Gold("C", "choice", ("a", "b", "c")),
        ),
        ({"answer": "C", "answer_kind": "choice", "options": ["a", 2]}, "", Gold("C", "choice")),
        ({"answer": "C", "answer_kind": "choice", "options": "abc"}, "", Gold("C", "choice")),
        ({"answer": 42}, "math", Gold("42", "math")),
        ({"answer": 0.5}, "", Gold("0.5", "")),
        ({"answer": "x", "answer_kind": "exact"}, "math", Gold("x", "exact")),
        ({"answer": "x", "answer_kind": None}, "exact", Gold("x", "exact")),
        ({}, "math", None),
        ({"answer": None}, "math", None),
    ],
)
def test_the_gold_answer_of_a_question(metadata: dict[str, Any], kind: str, gold: Gold | None) -> None:
    assert gold_of(metadata, kind) == gold


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"answer": True}, "expected text, found bool"),
        ({"answer": "four", "answer_kind": "choice"}, "expected the letter of an option, found 'four'"),
        (
            {"answer": "x", "answer_kind": "essay"},
            "answer_kind: expected one of choice, exact, math, found 'essay'",
        ),
        ({"answer": "x", "answer_kind": ["exact"]}, "answer_kind: expected one of"),
    ],
)
def test_a_gold_answer_that_cannot_be_compared(metadata: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        gold_of(metadata)


@pytest.mark.parametrize(
    ("answer", "kind", "stated"),
    [
        ("Answer: C", "choice", True),
        ("I cannot tell.", "choice", False),
        ("It is ten times more.", "choice", False),
        ("The answer is ten times more.", "choice", True),
        (r"So \boxed{5}", "math", True),
        ("#### 5", "math", True),
        ("The Answer: 5", "exact", True),
        ("It must be 5, I think.", "exact", False),
        ("", "math", False),
    ],
)
def test_whether_an_answer_is_stated_at_all(answer: str, kind: str, stated: bool) -> None:
    assert states_an_answer(answer, kind, ["one", "ten times more", "six"]) is stated


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{open", None),
        ("none", None),
    ],
)
def test_the_last_box(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


@given(st.recursive(st.sampled_from(["1", "x+y", "\\frac"]), lambda inner: inner.map(lambda s: f"{{{s}}}a")))
def test_the_last_box_is_found_with_its_braces(content: str) -> None:
    assert last_boxed(f"So \\boxed{{no}} and \\boxed{{{content}}}, as \\text{{said}}.") == content
    assert last_boxed(f"So \\boxed{{{content}") is None


def test_what_is_stated() -> None:
    assert stated("So the answer is: 5. No, the answer is 6") == "6"
    assert stated("12 = 12\n#### 12") == "12"
    assert stated("forty-two") == "forty-two"


def test_it_agrees_with_the_embedded_world() -> None:
    for problem in problems(HARD, "test", 30, seed=1):
        for text in (f"The answer is {problem.answer}.", f"Answer: {problem.answer}", "The answer is 7."):
            assert is_right(text, problem.answer, "exact") is check(problem, text)


@pytest.mark.parametrize("char", [" ", "*", "$", "\\", "(", "\n", "answer:", "The ", "{", "."])
def test_long_runs_of_one_thing_are_read(char: str) -> None:
    """Every pattern is linear; one that is not would not come back from 100,000 characters."""
    text = char * (100_000 // len(char))
    assert is_right(text, "C", "choice") is False
    assert is_right(text, "x", "exact") is False
    assert chosen(text, ["one", "two"]) is None


@given(st.text(), st.text(min_size=1), st.sampled_from(["choice", "exact", "math", "", "other"]))
def test_never_wrong_by_an_unknown_gold(answer: str, gold: str, kind: str) -> None:
    verdict = is_right(answer, gold, kind)
    if gold_error(gold, kind):
        assert verdict is None


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from(["Answer: {}", "The answer is {}.", "({})", "**{}**"]))
def test_a_letter_alone_is_found_again(letter: str, form: str) -> None:
    assert is_right("Some words.\n" + form.format(letter), letter, "choice") is True


def rows_of(name: str) -> list[dict[str, Any]]:
    lines = published("questions", name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_supergpqa_as_it_is_published() -> None:
    rows = rows_of("supergpqa-5.jsonl")
    assert len(rows) == 5
    for row in rows:
        right = row["answer_letter"]
        assert is_right(f"It is so.\n\nAnswer: {right}", right, "choice", options=row["options"]) is True
        other = "A" if right != "A" else "B"
        assert is_right(f"It is so.\n\nAnswer: {other}", right, "choice", options=row["options"]) is False
        spelled = f"It is so.\n\nThe answer is {row['answer']}"
        assert is_right(spelled, right, "choice", options=row["options"]) is True


def test_gsm8k_as_it_is_published() -> None:
    for row in rows_of("gsm8k-400.jsonl"):
        gold = row["answer"].rpartition("####")[2].strip()
        assert is_right(row["answer"], gold, "math") is True
        assert is_right(rf"Therefore \boxed{{{gold}}}.", gold, "math") is True
        assert is_right(f"The answer is ${gold}.", gold, "math") is True
        number = re.sub(r"\D", "", gold)
        assert is_right(f"The answer is {number}1.", gold, "math") is False


@pytest.fixture(scope="module")
def same_value() -> Iterator[MathVerify]:
    with MathVerify(seconds=60) as compare:
        yield compare


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"So \boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\frac{2}{4}}", r"\dfrac{1}{2}", True),
        (r"The answer is $x^2+2x+1$.", "(x+1)^2", True),
        (r"The answer is $x^2+2x$.", "(x+1)^2", False),
        (r"\boxed{(1, 2)}", "(1,2)", True),
        (r"\boxed{(2, 1)}", "(1,2)", False),
        (r"\boxed{1{,}000}", "1000", True),
        (r"\boxed{x = 5}", "5", True),
        (r"\boxed{\infty}", r"\infty", True),
        (r"\boxed{0.333}", r"\frac13", False),
        ("I do not know.", r"\frac13", False),
    ],
)
def test_values_are_compared(same_value: MathVerify, answer: str, gold: str, right: bool) -> None:
    assert is_right(answer, gold, "math", same_value=same_value) is right


def test_no_answer_holds_up_the_rest() -> None:
    """A tower of powers is given up, and the next one is judged by a new child. No answer runs as code."""
    with MathVerify(seconds=15) as verify:
        assert verify(r"\boxed{9^{9^{9^{9}}}}", "3") is None
        assert verify.gave_up == 1
        assert verify("The answer is __import__('os').system('touch pwned')", "3") is not True
        assert verify(r"\boxed{2/4}", "0.5") is True
        assert verify.gave_up == 1
    assert not Path("pwned").exists()
