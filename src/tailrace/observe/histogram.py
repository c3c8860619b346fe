"""A Prometheus histogram that one thread fills: a list of counts, without locks.

That of ``prometheus_client`` takes a lock and walks its buckets for each value. Here several equal values are one call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache


class Histogram:
    """Counts of values, by buckets."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float], counts: Sequence[int] | None = None, total: float = 0.0) -> None:
        """``bounds``: each bucket's largest value, rising; one more bucket has all larger values. ``counts``: what each
        bucket has already, and ``total`` the sum of those values.
        """
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(self._bounds) + 1) if counts is None else list(counts)
        self.total = total

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, int]]:
        """Each bucket's bound as text, and the number of values up to it; the last bound is ``+Inf``."""
        found: list[tuple[str, int]] = []
        running = 0
        for bound, count in zip(_names(self._bounds), self.counts, strict=True):
            running += count
            found.append((bound, running))
        return found


@lru_cache
def _names(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """The bounds as text, and the last one."""
    return (*(repr(float(bound)) for bound in bounds), "+Inf")
