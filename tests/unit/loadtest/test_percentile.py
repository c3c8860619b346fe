"""The nearest-rank percentile."""

from __future__ import annotations

import pytest

from tailrace.loadtest.load_stats import percentile


@pytest.mark.parametrize(("part", "value"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_of_the_nearest_rank(part: float, value: int) -> None:
    assert percentile(list(range(100, -1, -1)), part) == value
