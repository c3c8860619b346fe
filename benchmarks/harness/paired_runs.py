"""Interleaved runs of several sides, so that a ratio is of neighbouring runs: the machine's speed drifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def run_interleaved(sides: Mapping[str, Callable[[int], T]], turns: int, *, warm_up: int = 1) -> dict[str, list[T]]:
    """Run every side ``turns`` times in alternating order, after ``warm_up`` turns that don't count.

    A side is called with the turn's number. The order is reversed each turn (A B, B A, A B), so neither the other
    side's heat nor a drift of the machine's speed favours a side. Neighbours in ``sides`` are neighbours in time: put
    a side that is compared with two others between them.
    """
    names = list(sides)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(warm_up + turns):
        for name in names if turn % 2 == 0 else reversed(names):
            result = sides[name](turn)
            if turn >= warm_up:
                results[name].append(result)
    return results


def paired_ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """The quotient of each turn. Raises ValueError when the sides have different numbers of turns."""
    return [a / b for a, b in zip(over, under, strict=True)]
