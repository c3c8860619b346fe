"""Interleaved runs and their ratios."""

from __future__ import annotations

import pytest

from benchmarks.harness.paired_runs import paired_ratios, run_interleaved


def test_sides_alternate_and_reverse_their_order() -> None:
    calls: list[str] = []

    def side(name: str, turn: int) -> int:
        calls.append(f"{name}{turn}")
        return turn

    found = run_interleaved({"a": lambda turn: side("a", turn), "b": lambda turn: side("b", turn)}, 2)
    assert calls == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert found == {"a": [1, 2], "b": [1, 2]}


def test_a_side_between_two_others_is_next_to_both() -> None:
    calls: list[str] = []
    sides = {name: lambda _, name=name: calls.append(name) for name in "abc"}
    run_interleaved(sides, 2, warm_up=0)
    assert "".join(calls) == "abccba"


def test_a_ratio_is_of_turns_of_the_same_number() -> None:
    assert paired_ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="longer"):
        paired_ratios([1.0], [1.0, 2.0])
