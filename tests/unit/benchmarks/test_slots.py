"""The requests and the rate of the slots benchmark."""

from __future__ import annotations

import pytest

from benchmarks.slots import make_requests, steady_rate
from tailrace.loadtest.load_stats import StreamTiming


def test_the_same_requests_stay_in_both_sides_of_a_turn_and_begin_among_others() -> None:
    mixed, alone = make_requests(3, 120)
    assert [ask.messages for ask in mixed[-4:]] == [ask.messages for ask in alone]
    assert all(ask.start_after is None for ask in alone)
    # Whoever waits for somebody waits for one who writes more than that, else it would wait for ever.
    for ask in mixed:
        if ask.start_after is not None:
            other, events = ask.start_after
            assert mixed[other].max_tokens >= events
    assert make_requests(3, 120) == (mixed, alone)


def test_a_steady_rate_counts_from_where_all_have_come_so_far() -> None:
    even = StreamTiming(0.0, [0.1 * index for index in range(107)])
    late = StreamTiming(0.0, [0.05 + 0.1 * index for index in range(107)])
    assert steady_rate([even, late]) == pytest.approx(20.0, rel=0.1)
    with pytest.raises(ValueError, match="don't run together"):
        steady_rate([even, StreamTiming(0.0, [100.0 + index for index in range(107)])])
