"""Reasoning formats against the real tokenizers and chat templates, id by id."""

import pytest

from published import published
from tessy.adapters.fakes import ByteTokenizer
from tessy.adapters.tokenizer import HFTokenizer
from tessy.core.formats import FORMATS, ReasoningFormat, Thinking
from tessy.questions import Message

FAMILIES = {"qwen3": "qwen3", "deepseek_r1": "deepseek-r1", "openai_gptoss": "gpt-oss"}

USER = [Message("user", "What is 2 + 2?")]
SYSTEM = [Message("system", "Answer in one word."), *USER]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[HFTokenizer, Thinking]:
    tokenizer = HFTokenizer(str(published("tokenizers", FAMILIES[request.param])))
    return tokenizer, Thinking(FORMATS[request.param], tokenizer)


def test_a_prompt_opens_the_thinking_once(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    ids = thinking.prompt(USER)
    opening = {
        # <|im_start|>assistant\n<think>\n ; <｜Assistant｜><think>\n ; <|start|>assistant<|channel|>analysis<|message|>
        "qwen3": [151644, 77091, 198, 151667, 198],
        "deepseek_r1": [128804, 30, 37947, 1018],  # this vocabulary has no token for <think>
        "openai_gptoss": [200006, 173781, 200005, 35644, 200008],
    }[thinking.format.name]
    assert ids[-len(opening) :] == opening
    assert tokenizer.decode(ids).count(thinking.format.open.strip()) == 1
    template = tokenizer.render(USER, **thinking.format.template)
    assert ids[: len(template)] == template


def test_a_system_prompt_goes_where_the_template_puts_it(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    text = tokenizer.decode(thinking.prompt(SYSTEM))
    before = {
        "qwen3": "<|im_start|>system\n",
        "deepseek_r1": "<｜begin▁of▁sentence｜>",
        "openai_gptoss": "<|start|>developer<|message|># Instructions\n\n",
    }[thinking.format.name]
    assert before + "Answer in one word." in text


def test_gptoss_reasons_hard_unless_told_otherwise(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    if thinking.format.name == "openai_gptoss":
        assert "Reasoning: high" in tokenizer.decode(thinking.prompt(USER))


def test_the_thinking_closes_with_the_familys_own_tokens(family: tuple[HFTokenizer, Thinking]) -> None:
    _, thinking = family
    ids = {
        "qwen3": [198, 151668, 271],
        "deepseek_r1": [201, 1718, 37947, 4697],
        # <|end|><|start|>assistant<|channel|>final<|message|>
        "openai_gptoss": [200007, 200006, 173781, 200005, 17196, 200008],
    }[thinking.format.name]
    assert thinking.closing("So it is 4.") == ids
    after_a_newline = ids if thinking.format.name == "openai_gptoss" else ids[1:]
    assert thinking.closing("So it is 4.\n") == after_a_newline


def test_the_end_is_found_by_token(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    ids = [*tokenizer.encode("So it is 4."), *thinking.closing("So it is 4."), *tokenizer.encode("Four.")]
    text, ends = tokenizer.offsets([], ids)
    found = thinking.find_end(ids, ends, text)
    assert found is not None
    assert found.marked
    assert text[: found.at].rstrip() == "So it is 4."


@pytest.mark.parametrize("spelled", ["4.</think>\n\nFour", "4.assistantfinalFour", "4.<|end|>Four"])
def test_the_end_is_found_by_text(family: tuple[HFTokenizer, Thinking], spelled: str) -> None:
    tokenizer, thinking = family
    ids = tokenizer.encode(spelled)
    text, ends = tokenizer.offsets([], ids)
    found = thinking.find_end(ids, ends, text)
    own = any(marker in spelled for marker in thinking.format.end)
    assert (found is not None) == own
    if found:
        assert found == (2, True)


def test_a_turn_that_ends_without_a_marker_is_told_apart(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    turn_end = {"qwen3": "<|im_end|>", "deepseek_r1": "<｜end▁of▁sentence｜>", "openai_gptoss": "<|call|>"}
    ids = [*tokenizer.encode("So"), *tokenizer.encode_markup(turn_end[thinking.format.name])]
    text, ends = tokenizer.offsets([], ids)
    assert thinking.find_end(ids, ends, text) == (2, False)


def test_no_end_in_ordinary_text(family: tuple[HFTokenizer, Thinking]) -> None:
    tokenizer, thinking = family
    ids = tokenizer.encode("The assistant's final answer is a < b, i.e. </b> and think.")
    text, ends = tokenizer.offsets([], ids)
    assert thinking.find_end(ids, ends, text) is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("qwen3", "so </thi", 5),
        ("qwen3", "so <", 1),
        ("qwen3", "so </think", 7),
        ("qwen3", "a < b", 0),
        ("openai_gptoss", "so assist", 6),
        ("openai_gptoss", "so assistantfina", 13),
        ("openai_gptoss", "x <|e", 3),
        ("openai_gptoss", "done. ", 0),
    ],
)
def test_the_beginning_of_a_marker_is_held_back(name: str, text: str, expected: int) -> None:
    assert Thinking(FORMATS[name], ByteTokenizer()).unsettled(text) == expected


def test_another_familys_marker_ends_the_thinking_too() -> None:
    tokenizer = ByteTokenizer()
    thinking = Thinking(FORMATS["openai_gptoss"], tokenizer, foreign_ends=FORMATS["qwen3"].end)
    ids = tokenizer.encode("Done.</think>")
    text, ends = tokenizer.offsets([], ids)
    assert thinking.find_end(ids, ends, text) == (5, True)


def test_a_format_spelled_out() -> None:
    tokenizer = ByteTokenizer()
    format = ReasoningFormat("custom", "[THINK]", "[/THINK]", ("[/THINK]",))
    thinking = Thinking(format, tokenizer)
    assert tokenizer.decode(thinking.prompt(USER)).endswith("<|im_start|>assistant\n[THINK]")
    assert tokenizer.decode(thinking.closing("x")) == "[/THINK]"
