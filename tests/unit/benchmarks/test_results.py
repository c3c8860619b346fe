"""Figures, their bounds and intervals, and the files of results."""

from __future__ import annotations

import pytest

from benchmarks.harness.results import figure, median_interval


def test_a_figure_is_held_against_its_bound_on_the_right_side() -> None:
    least = figure("speed", [0.96, 0.99, 0.98], bound=0.97)
    assert (least.median, least.low, least.high, least.turns, least.met) == (0.98, 0.96, 0.99, 3, True)
    most = figure("wait", [0.2, 0.3], bound=0.1, is_upper_bound=True)
    assert most.met is False
    assert figure("speed", [1.0]).met is None
    with pytest.raises(ValueError, match="nothing was measured"):
        figure("speed", [])


@pytest.mark.parametrize(
    ("count", "ends"), [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (12, (3, 10)), (21, (6, 16))]
)
def test_the_median_s_interval_is_the_sign_test_s(count: int, ends: tuple[int, int] | None) -> None:
    # As in any table of the sign test, two-sided, at 5 %.
    assert median_interval([float(value) for value in range(count, 0, -1)]) == ends


def test_a_bound_within_the_interval_is_undecided() -> None:
    ratios = [0.97, 0.98, 0.99, 1.0, 1.01, 1.02]
    assert [figure("a", ratios, bound=bound).verdict for bound in (0.97, 0.98, 1.02, 1.03)] == [
        "met",
        "undecided",
        "undecided",
        "missed",
    ]
    assert [figure("a", ratios, bound=bound, is_upper_bound=True).verdict for bound in (0.96, 0.97, 1.02)] == [
        "missed",
        "undecided",
        "met",
    ]
    # Too few say what their median says.
    assert figure("a", ratios[:3], bound=0.98).verdict == "met"
    assert figure("a", ratios).verdict == ""
