"""The benchmark's arithmetic."""

from __future__ import annotations

import pytest

from tailrace.loadtest.load_stats import StreamTiming, load_stats, median_stats


def test_figures_of_two_streams() -> None:
    first = StreamTiming(0.0, [1.0, 1.1, 1.2, 1.3])
    second = StreamTiming(0.5, [1.1, 1.2, 1.4, 1.5])
    result = load_stats([first, second])
    assert (result.streams, result.tokens) == (2, 8)
    assert result.total_rate == pytest.approx(8 / 1.5)
    # Together from 1.1 to 1.3: two tokens of the first, one of the second and half of its gap to the next.
    assert result.decode_rate == pytest.approx(3.5 / 0.2)
    assert result.ttft_median == pytest.approx(800.0)
    assert result.ttft_max == pytest.approx(1000.0)
    assert result.gap_median == pytest.approx(100.0)
    assert result.gap_max == pytest.approx(200.0)


def test_tokens_without_text_count_and_texts_of_several_count_as_many() -> None:
    silent = StreamTiming(0.0, [1.0, 1.1, 1.2, 1.3], reply_tokens=5)
    result = load_stats([silent])
    assert result.tokens == 5
    assert result.total_rate == pytest.approx(5 / 1.3)
    assert result.decode_rate == pytest.approx(3 * 1.25 / 0.3)
    double = StreamTiming(0.0, [1.0, 1.1, 1.2, 1.3], reply_tokens=8)
    assert load_stats([double]).decode_rate == pytest.approx(3 * 2 / 0.3)


def test_a_later_token_of_a_step_counts_the_same() -> None:
    streams = [StreamTiming(0.0, [step + 0.01 * place for step in range(5)]) for place in range(4)]
    assert load_stats(streams).decode_rate == pytest.approx(4.0)


def test_the_low_gap_has_a_quarter_below_it() -> None:
    moments = [0.0]
    for gap in (0.9, 0.5, 0.1, 0.7, 0.3):
        moments.append(moments[-1] + gap)
    assert load_stats([StreamTiming(0.0, moments)]).gap_low == pytest.approx(300.0)


def test_a_stream_without_tokens_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        load_stats([StreamTiming(0.0, [1.0])])


def test_the_middle_of_turns_is_each_figure_s_median() -> None:
    turns = [load_stats([StreamTiming(0.0, [1.0, 1.0 + gap])]) for gap in (0.1, 0.3, 0.2)]
    assert median_stats(turns).gap_median == pytest.approx(200.0)
