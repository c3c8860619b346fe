"""The pass cost model: what it learns of durations."""

from __future__ import annotations

import pytest

from tailrace.engine.speculation.pass_cost import PassCost


def test_a_pass_cost_is_learned_and_follows_the_machine() -> None:
    cost = PassCost()
    assert not cost.has_observations
    for _ in range(50):
        cost.observe(1, 0.01)
        cost.observe(9, 0.03)
    assert cost.seconds(1) == pytest.approx(0.01, rel=0.01)
    assert cost.seconds(5) == pytest.approx(0.02, rel=0.05), "between two known sizes"
    assert 0.03 < cost.seconds(17) < 0.06, "beyond them a low estimate"
    for _ in range(200):
        cost.observe(1, 0.02)
    assert cost.seconds(1) == pytest.approx(0.02, rel=0.01)
    assert cost.seconds(9) > 0.033, "what slows one size slows the others"
    cost.observe(1, 100.0)
    assert cost.seconds(1) < 0.04, "one step that lost its core says little"
