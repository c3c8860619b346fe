"""Sides in turns: what makes a ratio on a noisy machine worth telling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turns(sides: Mapping[str, Callable[[int], T]], turns: int, *, warm_up: int = 1) -> dict[str, list[T]]:
    """Run every side ``turns`` times, one after the other, after ``warm_up`` turns that don't count.

    A side is called with the turn's number. The order turns round each time (A B, B A, A B): none always follows
    another one's heat, and a machine that gets slower or faster meanwhile favours none. Neighbours in ``sides`` are
    neighbours in time, so what is compared with two others stands between them.
    """
    names = list(sides)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(warm_up + turns):
        for name in names if turn % 2 == 0 else reversed(names):
            result = sides[name](turn)
            if turn >= warm_up:
                results[name].append(result)
    return results


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Each turn's quotient. Raises ValueError when the sides had different numbers of turns."""
    return [a / b for a, b in zip(over, under, strict=True)]


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` (0 to 1) of them lie, by the nearest rank. Raises ValueError without any."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]
