import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.core.repetition import MAX_WORDS, MIN_WORDS, TIMES, RepetitionGuard


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("a b c " * 8, True),
        ("a b c " * 7, False),
        ("x y z " + "a b c " * 7 + "a b", False),
        ("very " * 24, True),  # 8 times "very very very"
        ("very " * 23, False),
        (" ".join(map(str, range(50))) + " ", False),
        ((" ".join(f"w{n}" for n in range(50)) + " ") * 8, True),
        ((" ".join(f"w{n}" for n in range(51)) + " ") * 9, False),  # longer than 50 words
        ("- * . " * 30, False),  # punctuation alone
        ("| --- | " * 40, False),
        ("- 1 . " * 8, True),
        ("好的吗" * 8, True),
        ("wait, no, wait. " * 8, True),
    ],
)
def test_loops(text: str, loops: bool) -> None:
    assert RepetitionGuard().feed(text) is loops


def slow(text: str) -> bool:
    """The rule by definition, over every end of the text."""
    words = re.findall(r"\S+(?=\s)", text)
    for end in range(1, len(words) + 1):
        for period in range(MIN_WORDS, MAX_WORDS + 1):
            tail = words[max(0, end - period * TIMES) : end]
            if (
                len(tail) == period * TIMES
                and tail == tail[:period] * TIMES
                and any(map(str.isalnum, "".join(tail[:period])))
            ):
                return True
    return False


@given(st.text(alphabet="ab. ", max_size=120), st.lists(st.integers(1, 7), min_size=1, max_size=60))
def test_pieces_do_not_matter(text: str, sizes: list[int]) -> None:
    guard, at = RepetitionGuard(), 0
    for size in sizes:
        guard.feed(text[at : at + size])
        at += size
    guard.feed(text[at:])
    assert guard.looping is slow(text)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.integers(1, 12))
def test_repeated_fragments_are_found(fragment: list[str], times: int) -> None:
    text = " ".join(fragment * times) + " "
    assert RepetitionGuard().feed(text) is slow(text)


def test_what_is_held_is_bounded() -> None:
    guard = RepetitionGuard()
    for _ in range(100):
        guard.feed("x" * 100)
    assert len(guard._held) <= 1000
