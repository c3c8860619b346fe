"""The gaps of the flood benchmark."""

from __future__ import annotations

import pytest

from benchmarks.flood import evaluate
from tailrace.loadtest.load_stats import StreamTiming


def test_flood_gaps_are_separated_by_the_prompts_time() -> None:
    first = StreamTiming(0.0, [1.0, 1.01, 1.02, 1.12, 1.22, 1.23])
    second = StreamTiming(0.0, [1.005, 1.015, 1.025, 1.125, 1.225, 1.235])
    found = evaluate([first, second, StreamTiming(1.1, [1.222, 1.3])])
    # The first stream's gap before the second one ran counts for neither.
    assert found.gaps_before == pytest.approx([10.0, 10.0, 10.0])
    assert found.gaps_during == pytest.approx([100.0, 100.0, 10.0, 100.0, 100.0])
    assert found.prefill_seconds == pytest.approx(0.122)
    assert found.max_reply_tokens == 5


def test_flood_gaps_last_from_the_first_late_request_to_the_last_one() -> None:
    running = StreamTiming(0.0, [1.0, 1.01, 1.12, 1.23, 1.34, 1.35])
    late = [StreamTiming(1.1, [1.2]), StreamTiming(1.22, [1.33], cached_tokens=7)]
    found = evaluate([running, *late], late=2)
    assert found.gaps_before == pytest.approx([10.0])
    assert found.gaps_during == pytest.approx([110.0, 110.0, 110.0])
    assert found.prefill_seconds == pytest.approx(0.11)
    assert found.cached_tokens == 7


def test_gaps_are_compared_with_those_of_replies_of_the_same_length() -> None:
    """Without the prompt the gaps grow from 10 to 20 ms."""
    times = [0.0]
    for position in range(64):
        times.append(times[-1] + (0.01 if position < 32 else 0.02))
    running = StreamTiming(0.0, [1.0, *(1.1 + 0.04 * place for place in range(63))])
    found = evaluate([running, StreamTiming(1.05, [9.0])])
    found.compare([StreamTiming(0.0, times)] * 2)
    assert found.relative[1:32] == pytest.approx([4.0] * 31)
    assert found.relative[32:] == pytest.approx([2.0] * 31)
