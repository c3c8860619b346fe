"""The flood on the CPU clock."""

from __future__ import annotations

import pytest

from benchmarks.flood_steps import _ratio


def test_gaps_are_compared_with_a_quiet_gap_that_grows() -> None:
    gaps = [20.0 + place / 10 for place in range(100)]
    assert _ratio(gaps, 10.0, 15.0) == pytest.approx(2.0)
