"""What one run of a deletion hands on to the next."""

import pytest

from workflows.carried import Spans


@pytest.mark.parametrize(
    ("added", "spans"),
    [
        ([(3, 3), (1, 1), (2, 2)], ((1, 3),)),
        ([(0, 3), (8, 11), (4, 7)], ((0, 11),)),
        ([(0, 3), (8, 11)], ((0, 3), (8, 11))),
        ([(0, 9), (3, 4)], ((0, 9),)),
        ([(3, 4), (0, 9)], ((0, 9),)),
    ],
)
def test_what_was_done_in_order_needs_few_spans(added: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> None:
    whole = Spans()
    for first, last in added:
        whole = whole.with_all(first, last)
    assert whole.spans == spans
    assert all(whole.covers(first, last) for first, last in added)


def test_a_span_is_covered_only_as_a_whole() -> None:
    spans = Spans().with_all(0, 3).with_all(8, 11)
    assert [spans.covers(*span) for span in ((0, 3), (1, 2), (8,), (2, 4), (3, 8), (4,), (12,))] == [
        *(True, True, True),
        *(False, False, False, False),
    ]
