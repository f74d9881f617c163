"""A text that grows is in tokens what it is as a whole, in every vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from published import published
from tessy import embedded
from tessy.adapters.predictors.growing import PIECE, Growing
from tessy.adapters.predictors.published import load_tokenizer

ALPHABET = [
    *"abcdefgh .,;:!?()<>|'_0123456789\n\t-",
    "é",
    "e\u0301",
    "你",
    "🙂",
    " the",
    " Wait,",
    "\r\n",
    "  ",
    "<|end|>",
]


def plain() -> Tokenizer:
    """Bytes, of which no two are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: n for n, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prefixed() -> Tokenizer:
    """One that puts a space before the first word."""
    tokenizer = plain()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def trimmed() -> Tokenizer:
    """One that takes a space before the first word for one that was put there."""
    tokenizer = plain()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=True)
    return tokenizer


def lowered() -> Tokenizer:
    """One that reads another text than is there."""
    tokenizer = plain()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def shared(name: str) -> Any:
    """A published one."""
    return load_tokenizer(str(published("tokenizers", name)))


VOCABULARIES: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "prefixed": prefixed,
    "trimmed": trimmed,
    "lowered": lowered,
    "embedded": lambda: load_tokenizer(str(embedded.path("student_predictor"))),
    "qwen3": lambda: shared("qwen3"),
    "gpt-oss": lambda: shared("gpt-oss"),
    "deepseek-r1": lambda: shared("deepseek-r1"),
}


@pytest.fixture(scope="module", params=list(VOCABULARIES))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return VOCABULARIES[request.param]()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(ALPHABET), max_size=400).map("".join),
    st.lists(st.integers(0, 900), max_size=6),
    st.integers(0, 30),
)
def test_a_text_that_grows_is_in_tokens_what_it_is_as_a_whole(
    tokenizer: Any, text: str, cuts: list[int], begin: int
) -> None:
    growing = Growing(tokenizer)
    for cut in (*sorted(cuts), len(text), len(text)):
        part = text[begin:cut]
        encoding = tokenizer.encode(part, add_special_tokens=False)
        assert growing(part) == (encoding.ids, [start for start, _ in encoding.offsets])


@pytest.mark.parametrize(
    ("name", "spared"),
    [("plain", True), ("embedded", True), ("prefixed", False), ("trimmed", False), ("lowered", False)],
)
def test_what_stood_before_is_not_tokenized_again(name: str, spared: bool) -> None:
    class Counting:
        """Counts characters."""

        def __init__(self) -> None:
            self.inner = VOCABULARIES[name]()
            self.characters = 0

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self.inner, attribute)

        def encode(self, text: str, **options: bool) -> Any:
            self.characters += len(text)
            return self.inner.encode(text, **options)

    draws, counting = random.Random(7), Counting()
    growing, text = Growing(counting), ""
    words = ["the", "sum", "is", "wait,", "so"]
    for _ in range(400):
        text += " " + draws.choice(words)
        growing(text)
    assert (counting.characters < 400 * 2 * PIECE) == spared
