"""Sides in turns: what makes a ratio on a noisy machine worth telling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turns(sides: Mapping[str, Callable[[int], T]], turns: int, *, warm_up: int = 1) -> dict[str, list[T]]:
    """Run every side ``turns`` times, one after the other, after ``warm_up`` turns that don't count.

    A side is called with the turn's number, so that all do the same work in a turn and other work in the next. The side
    that goes first changes, so that none always follows another one's heat.
    """
    names = list(sides)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(warm_up + turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
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
