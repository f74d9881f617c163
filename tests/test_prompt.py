"""A prompt that grows and shrinks at its end is a list of ids that does."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tessy.core.prompt import BLOCK, LAST, TokenBuffer

IDS = st.integers(0, 2**31 - 1)
LENGTHS = st.one_of(st.integers(0, 40), st.integers(0, 3 * LAST))
"""Few, as usual; and more than is held as numbers."""
CHANGES = st.lists(st.tuples(st.sampled_from(("extend", "drop", "look")), IDS, LENGTHS), max_size=12)


@given(st.lists(IDS, max_size=5), CHANGES)
def test_it_is_a_list_of_ids(first: list[int], changes: list[tuple[str, int, int]]) -> None:
    ids, prompt = list(first), TokenBuffer(first)
    for what, start, length in changes:
        if what == "extend":
            new = [(start + 7 * n) % 2**31 for n in range(length)]
            ids += new
            prompt.extend(iter(new))
        elif what == "drop":
            count = min(length, len(ids))
            del ids[len(ids) - count :]
            prompt.drop(count)
        assert len(prompt) == len(ids)
        assert list(prompt.tail(length)) == ids[max(0, len(ids) - length) :]
        assert json.loads(b"".join(prompt.json())) == list(prompt.ids) == ids


def test_its_json_is_not_made_again() -> None:
    prompt = TokenBuffer(range(100_000))
    whole = [piece for piece in prompt.json() if len(piece) == BLOCK]
    prompt.extend([5] * 20)
    prompt.drop(3)
    again = [piece for piece in prompt.json() if len(piece) == BLOCK]
    assert len(whole) > 60
    assert [id(piece) for piece in again] == [id(piece) for piece in whole]
    assert sum(map(len, prompt.json())) - BLOCK * len(again) <= 2 * BLOCK + 2


def test_nothing_may_be_left_of_what_is_not_a_block_yet() -> None:
    for count in range(7_700, 7_720):
        prompt = TokenBuffer([5] * 20_000)
        prompt.drop(count)
        assert json.loads(b"".join(prompt.json())) == [5] * (20_000 - count)
