"""Packed spans come back as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tessy.core.spans import SpanLog
from tessy.trajectory import Span, Speaker

COUNTS = st.integers(0, 2**31)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
"""Halves of surrogate pairs, too."""
SPANS = st.builds(Span, st.sampled_from(Speaker), TEXTS, COUNTS, COUNTS, COUNTS)


@given(st.lists(SPANS, max_size=20))
def test_spans_come_back(spans: list[Span]) -> None:
    log = SpanLog()
    for n, span in enumerate(spans):
        assert list(log) == spans[:n]
        log.append(span)
    assert list(log) == list(log) == spans
