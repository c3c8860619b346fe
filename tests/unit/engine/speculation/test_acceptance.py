"""Acceptance rates: what is learned of a sequence and of all sequences."""

from __future__ import annotations

import pytest

from tailrace.engine.speculation.acceptance import LEVELS, Acceptance


def test_rates_follow_the_observations_of_a_sequence_and_of_all() -> None:
    overall = Acceptance((0.5,) * LEVELS)
    one, other = Acceptance(overall), Acceptance(overall)
    assert one.rate(0) == pytest.approx(0.5)
    for _ in range(100):
        one.observe(0, False)
        one.observe(70, True)
    assert one.rate(0) < 0.1
    assert one.rate(70) > 0.9
    assert 0.05 < other.rate(0) < 0.3, "another sequence starts from all observations"
    assert one.cumulative_rates(70, 3) == pytest.approx([one.rate(70) ** power for power in (1, 2, 3)])
    assert one.cumulative_rates(0, 2)[1] < one.rate(0)
