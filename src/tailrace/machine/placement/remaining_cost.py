"""A lower bound for what the undecided part of a placement costs. The search drops what can't become the best one.

The bound knows of memory only the bytes of all undecided devices together, and takes each byte's largest gain. So no
placement is cheaper, and the search with the bound finds the same placement as without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Gains(NamedTuple):
    """The gains of the first layers on devices, in relation to the CPU: of homes or of feeds."""

    sums: list[float]  #: seconds by number of layers
    density: float  #: max seconds for a byte

    def between(self, first: int, end: int, capacity: float) -> tuple[float, float]:
        """Max seconds that these layers gain in ``capacity`` bytes, and the bytes that are left."""
        if not self.density or end <= first:
            return 0.0, capacity
        wanted = self.sums[end] - self.sums[first]
        gained = min(wanted, self.density * capacity)
        return gained, capacity - gained / self.density


class RemainingCost:
    """For one set of devices that aren't decided yet. All costs are in relation to a CPU that has everything."""

    def __init__(
        self,
        homes: Sequence[Sequence[float]],
        feeds: Sequence[Sequence[float]],
        sizes: tuple[Sequence[int], Sequence[int]],
        devices: Iterable[int],
        *,
        capacity: float,
        output: float,
    ) -> None:
        """``homes``, ``feeds``: sums over the first layers, by device, of which the CPU is the first; ``sizes``: of
        both, the sums of bytes. ``capacity``: bytes of the ``devices`` together. ``output``: seconds that the output
        gains there.
        """
        undecided = tuple(devices)
        self._gains = [_gains(costs, size, undecided) for costs, size in zip((homes, feeds), sizes, strict=True)]
        self._cpu, self._sizes = (homes[0], feeds[0]), sizes
        self._capacity = max(0.0, capacity)
        self._output = max(0.0, output)
        self._layers = len(homes[0]) - 1
        self._known: dict[tuple[int, int], float] = {}

    def min_seconds(self, left: int, taken: int) -> float:
        """Min seconds of the first ``left`` layers, where others have ``taken`` feeds of the first ones."""
        known = self._known.get((left, taken))
        if known is None:
            known = self._known[left, taken] = self._compute(left, taken)
        return known

    def min_bytes(self, left: int, taken: int) -> int:
        """Min bytes of these layers that the CPU has to hold."""
        homes, feeds = self._sizes
        return homes[left] + feeds[left] - feeds[min(taken, left)] - int(self._capacity)

    def _compute(self, left: int, taken: int) -> float:
        home, feed = self._cpu
        total = home[left] + feed[left] - feed[min(taken, left)]
        capacity = self._capacity
        ranges = sorted(zip(self._gains, (0, taken), strict=True), key=lambda each: -each[0].density)
        for gains, first in ranges:
            gained, capacity = gains.between(first, left, capacity)
            total -= gained
        return total - (self._output if left == self._layers else 0.0)


def _gains(costs: Sequence[Sequence[float]], sizes: Sequence[int], devices: Sequence[int]) -> Gains:
    found, density = [], 0.0
    for layer in range(len(sizes) - 1):
        there = min((costs[device][layer + 1] - costs[device][layer] for device in devices), default=float("inf"))
        gain = max(0.0, costs[0][layer + 1] - costs[0][layer] - there)
        size = sizes[layer + 1] - sizes[layer]
        # What takes no memory gains nothing worth a bound of its own: it counts as a byte.
        density = max(density, gain / max(1, size))
        found.append(gain)
    return Gains(list(accumulate(found, initial=0.0)), density)
