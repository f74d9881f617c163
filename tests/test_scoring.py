"""Figures of a boundary predictor: on tokens, on spans, and at the cuts of drafts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy.core.annotation import Annotated, Segment, kinds
from tessy.core.cut import MAX_WORD
from tessy.core.scoring import THRESHOLDS, Boundaries, Judged, Scores, best_threshold, curve, score
from tessy.protocols import Mark
from tessy.trajectory import Label, Speaker

TEXT = "Okay, so 3 + 4 is 7. Wait, let me check 8."
STYLE = ((0, 8), (21, 39))
"""Tokens are words with the space before them: 0 and 1 are style, and 7 to 10, of 12."""


def token_starts(text: str) -> list[int]:
    return [word.start() for word in re.finditer(r"\s*\S+", text)]


def judged(*style: int, start: int = 0, unmarked: int = 0) -> Judged:
    """What a predictor says that takes the tokens `style` for style, and does not mark the first `unmarked`."""
    marks = [Mark(at, float(n in style)) for n, at in enumerate(token_starts(TEXT))]
    return Judged(Annotated(Segment(f"r:{start}", "r", start, TEXT), STYLE), marks[unmarked:])


RIGHT = (0, 1, 7, 8, 9, 10)
WRONG = (0, 1, 2, 7, 8, 9)
"""Late by one at "3", early by one at "check"."""


def cuts(errors: dict[int, int], exact: float, near: float) -> Boundaries:
    return Boundaries(sum(errors.values()), errors, exact, near)


def test_a_predictor_that_is_right_has_full_marks() -> None:
    assert score([judged(*RIGHT)]) == Scores(
        12, 1.0, 1.0, 1.0, 1.0, 1.0, student=cuts({0: 2}, 1.0, 1.0), teacher=cuts({0: 2}, 1.0, 1.0)
    )


def test_every_figure_of_one_that_is_wrong() -> None:
    found = score([judged(*WRONG)])
    assert found == Scores(
        tokens=12,
        accuracy=10 / 12,
        precision=5 / 6,
        recall=5 / 6,
        f1=5 / 6,
        span_f1=0.0,
        # "Okay, so 3" for "Okay, so"; "Wait, let me" for "Wait, let me check".
        student=cuts({-1: 1, 1: 1}, 0.0, 1.0),
        # " 3", since a fresh speaker keeps a word, for " 3 + 4 is 7."; " 8." is kept whole, rightly.
        teacher=cuts({-4: 1, 0: 1}, 0.5, 0.5),
    )
    assert found.of(Speaker.STUDENT) is found.student
    assert found.of(Speaker.TEACHER) is found.teacher


def test_a_span_is_right_with_exactly_the_right_tokens() -> None:
    assert score([judged(0, 1, 7, 8)]).span_f1 == 2 * 1 / (2 + 2)
    assert score([judged(0, 1)]).span_f1 == 2 * 1 / (2 + 1)
    assert score([judged(0, 1, *range(7, 11), 4)]).span_f1 == 2 * 2 / (2 + 3)


def test_a_span_longer_than_a_draft_is_several_drafts() -> None:
    found = score([judged(*WRONG)], chunk=2)
    assert found.student == cuts({-1: 1, 0: 2}, 2 / 3, 1.0)
    assert found.teacher == cuts({-1: 1, 0: 3}, 3 / 4, 1.0)


def test_a_cut_inside_a_word_is_made_as_in_use() -> None:
    # The predictor's tokens are "Wait", "ing", " so", " 3": style ends in the middle of the word, which is finished.
    marks = [Mark(0, 1.0), Mark(4, 0.0), Mark(7, 0.0), Mark(10, 0.0)]
    found = score([Judged(Annotated(Segment("r:0", "r", 0, "Waiting so 3"), ((0, 7),)), marks)])
    assert found.accuracy == 0.75
    assert found.student == cuts({0: 1}, 1.0, 1.0)


def test_a_draft_does_not_show_more_of_a_word_than_in_use() -> None:
    # "go", " on", " Wait", "ing", " 3" in drafts of four: the word may go on, so the true cut drops it.
    marks = [Mark(start, float(start < 13)) for start in (0, 2, 5, 10, 13)]
    annotated = Annotated(Segment("r:0", "r", 0, "go on Waiting 3"), ((0, 10),))
    assert score([Judged(annotated, marks)], chunk=4).student.errors == {2: 1}


def test_a_draft_that_does_not_begin_its_span_may_keep_nothing() -> None:
    found = score([judged(1, 7, 8, 9, 10, start=5)], lead_in=0)
    assert found.student.errors == {-2: 1, 0: 1}


def test_drafts_at_the_beginning_of_a_segment_are_not_judged_unless_it_begins_its_response() -> None:
    def drafts(start: int, lead_in: int = 10) -> tuple[int, int]:
        found = score([judged(*RIGHT, start=start)], lead_in=lead_in)
        assert found.tokens == 12
        return found.student.drafts, found.teacher.drafts

    assert drafts(0) == (2, 2)
    assert drafts(5) == (0, 1)
    assert drafts(5, lead_in=2) == (1, 2)
    assert drafts(5, lead_in=3) == (1, 1)
    assert drafts(5, lead_in=0) == (2, 2)
    assert drafts(5, lead_in=99) == (0, 0)
    ((_, found),) = curve([judged(*RIGHT, start=5)], 20, [0.5], lead_in=2)
    assert found.teacher.drafts == 2


def test_the_first_token_of_all_has_no_mark_but_is_in_the_first_draft() -> None:
    found = score([judged(*WRONG, unmarked=1)])
    assert found.tokens == 11
    assert found.student == score([judged(*WRONG)]).student
    assert score([judged(*WRONG, unmarked=1)], chunk=2).teacher == score([judged(*WRONG)], chunk=2).teacher
    # It may be told wrongly only where it is judged: with a mark, the draft would be cut after its first word.
    assert score([judged(1, 7, 8, 9, 10, unmarked=1)]).student.exact == 1.0
    assert score([judged(1, 7, 8, 9, 10)]).student.errors == {-1: 1, 0: 1}


def test_text_that_did_not_fit_into_a_window_is_not_judged() -> None:
    found = score([judged(*RIGHT, unmarked=9)])
    assert found.tokens == 3
    assert (found.student.drafts, found.teacher.drafts) == (1, 1)


def test_tokens_of_one_character_share_its_kind() -> None:
    text = "🤔 so 3"
    marks = [Mark(0, 1.0), Mark(0, 1.0), Mark(0, 1.0), Mark(1, 1.0), Mark(4, 0.0)]
    found = score([Judged(Annotated(Segment("r:0", "r", 0, text), ((0, 4),)), marks)])
    assert (found.tokens, found.accuracy, found.student.exact) == (5, 1.0, 1.0)


def test_the_blanks_between_words_belong_to_the_word_that_follows() -> None:
    # Tokens without their space, as the rules make them; style that begins with one, as leading-space tokens do.
    text = "so 3 + 4. Wait, 5"
    style = ((0, 2), (9, 15))
    marks = [Mark(word.start(), float(word[0] in ("so", "Wait,"))) for word in re.finditer(r"\S+", text)]
    found = score([Judged(Annotated(Segment("r:0", "r", 0, text), style), marks)])
    assert (found.accuracy, found.span_f1) == (1.0, 1.0)
    assert (found.student.exact, found.teacher.exact) == (1.0, 1.0)


def test_nothing_to_get_wrong_is_nothing_wrong() -> None:
    nothing = cuts({}, 1.0, 1.0)
    assert score([]) == Scores(0, 1.0, 1.0, 1.0, 1.0, 1.0, student=nothing, teacher=nothing)
    plain = Judged(Annotated(Segment("r:0", "r", 0, "3 + 4"), ()), [Mark(0, 0.1), Mark(1, 0.6)])
    found = score([plain])
    assert (found.precision, found.recall, found.f1, found.span_f1) == (0.0, 1.0, 0.0, 0.0)
    assert (found.student.drafts, found.teacher.drafts) == (0, 1)
    unmarked = Judged(Annotated(Segment("r:0", "r", 0, "3 + 4"), ()), [])
    assert score([unmarked]) == score([])


def test_scores_are_stored_as_json() -> None:
    found = orjson.loads(orjson.dumps(score([judged(*WRONG)]), option=orjson.OPT_NON_STR_KEYS))
    assert found["student"] == {"drafts": 2, "errors": {"-1": 1, "1": 1}, "exact": 0.0, "within_word": 1.0}


# --- thresholds -----------------------------------------------------------------------------------------------


def sure(*style: float) -> Judged:
    """A predictor that is as sure of each of the 12 tokens as it is said."""
    marks = [Mark(*pair) for pair in zip(token_starts(TEXT), style, strict=True)]
    return Judged(Annotated(Segment("r:0", "r", 0, TEXT), STYLE), marks)


CAUTIOUS = sure(0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3, 0.1)
"""Right from 0.15 to 0.3 only."""


def test_the_best_threshold_cuts_most_drafts_exactly() -> None:
    points = curve([CAUTIOUS], 20)
    assert [threshold for threshold, _ in points] == list(THRESHOLDS)
    assert best_threshold(points) == 0.3
    assert [threshold for threshold, scores in points if scores.student.exact == 1.0] == [
        0.15,
        0.2,
        0.25,
        0.3,
    ]


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_best() -> None:
    points = curve([judged(*RIGHT)], 20)
    assert best_threshold(points) == best_threshold(points, Speaker.TEACHER) == 0.5
    assert best_threshold([point for point in points if point[0] != 0.5]) == 0.45
    with pytest.raises(ValueError, match="empty"):
        best_threshold([])


def test_each_speaker_may_have_its_own_best_threshold() -> None:
    # Student drafts want "so" (0.2) to be style; the teacher's want "is" (0.4) not to be.
    unsure = sure(0.9, 0.2, 0.1, 0.1, 0.1, 0.4, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1)
    points = curve([unsure], 20)
    assert best_threshold(points, Speaker.STUDENT) == 0.2
    assert best_threshold(points, Speaker.TEACHER) == 0.5


# --- properties -----------------------------------------------------------------------------------------------

WORDS = ["so", "Wait,", "3+4", "is", "好的", "x" * 50, "don't", "7.\n\n", "  a"]


@st.composite
def predicted(draw: st.DrawFn) -> Judged:
    """Any text with any style, cut into any tokens of which anything is said."""
    text = " ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)))
    edges = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    starts = sorted(draw(st.lists(st.integers(0, len(text) - 1), max_size=25)))
    style = draw(st.lists(st.floats(0, 1), min_size=len(starts), max_size=len(starts)))
    ranges = tuple(zip(edges[::2], edges[1::2], strict=False))
    start = draw(st.sampled_from([0, 40]))
    segment = Segment(f"r:{start}", "r", start, text)
    return Judged(Annotated(segment, ranges), [Mark(*pair) for pair in zip(starts, style, strict=True)])


def perfect(one: Judged) -> Judged:
    """The same, said by a predictor that knows."""
    text = one.annotated.segment.text
    edges = [*(mark.start for mark in one.marks), len(text)]
    lengths = [len(text[begin:end].rstrip(" ")) or end - begin for begin, end in pairwise(edges)]
    tokens = [(begin, begin + length) for begin, length in zip(edges, lengths, strict=False)]
    labels = kinds(one.annotated.style, tokens)
    told = [
        Mark(mark.start, float(label is Label.STYLE)) for mark, label in zip(one.marks, labels, strict=True)
    ]
    return Judged(one.annotated, told)


@given(st.lists(predicted(), max_size=4), st.integers(1, 25), st.floats(0.01, 0.99))
def test_figures_agree_with_one_another(many: list[Judged], chunk: int, threshold: float) -> None:
    found = score(many, threshold=threshold, chunk=chunk)
    assert found.tokens == sum(len(one.marks) for one in many)
    for speaker in Speaker:
        told = found.of(speaker)
        assert sum(told.errors.values()) == told.drafts
        assert list(told.errors) == sorted(told.errors)
        assert all(-chunk <= error <= chunk for error in told.errors)
        assert told.exact <= told.within_word <= 1
        assert told.exact * told.drafts <= told.errors.get(0, 0) + 1e-9 or not told.drafts
    assert min(found.precision, found.recall) - 1e-9 <= found.f1 <= max(found.precision, found.recall) + 1e-9
    assert curve(many, chunk, [0.3, threshold])[1] == (threshold, found)
    assert score(reversed(many), threshold=threshold, chunk=chunk) == found


@given(st.lists(predicted(), max_size=4), st.integers(1, 25), st.floats(0.01, 1))
def test_who_knows_is_never_wrong(many: list[Judged], chunk: int, threshold: float) -> None:
    found = score(map(perfect, many), threshold=threshold, chunk=chunk)
    assert (found.accuracy, found.precision, found.recall, found.f1, found.span_f1) == (1, 1, 1, 1, 1)
    assert (found.student.exact, found.teacher.exact) == (1, 1)
    assert {*found.student.errors, *found.teacher.errors} <= {0}


@given(st.lists(predicted(), max_size=4), st.integers(1, 25))
def test_who_takes_nothing_for_style_never_stops_the_teacher(many: list[Judged], chunk: int) -> None:
    # In a run without spaces that is no word, an earlier boundary may be a later cut: it has to be seen to be long.
    blind = [
        Judged(one.annotated, [Mark(mark.start, 0.0) for mark in one.marks])
        for one in many
        if all(len(word) < MAX_WORD for word in one.annotated.segment.text.split())
    ]
    found = score(blind, chunk=chunk)
    assert all(error <= 0 for error in found.student.errors)
    assert all(error >= 0 for error in found.teacher.errors)


def test_segments_are_read_one_at_a_time() -> None:
    alive = 0

    class Counted(Judged):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[Judged]:
        nonlocal alive
        for _ in range(50):
            alive += 1
            one = judged(*WRONG)
            yield Counted(one.annotated, one.marks)
            assert alive <= 2

    assert score(stream()).tokens == 600
    assert len(curve(stream())) == len(THRESHOLDS)
