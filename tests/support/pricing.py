"""A speculator whose steps take what a price says instead of what the clock says: whether it drafts is then certain."""

from __future__ import annotations

from collections.abc import Callable

from tailrace.engine.speculation.speculator import Drafter, Speculator

#: Seconds of a step by the number of its tokens.
Price = Callable[[int], float]


def free(tokens: int) -> float:
    """Memory-bound: the weights are read once, however many tokens."""
    return 1.0


def slowly(tokens: int) -> float:
    """A token more costs a twentieth of a pass."""
    return 1.0 + 0.05 * tokens


def dear(tokens: int) -> float:
    """Compute-bound: each token costs the same."""
    return float(tokens)


class PricedSpeculator(Speculator):
    """See the module."""

    def __init__(self, drafter: Drafter, price: Price, *, most: int = 16) -> None:
        super().__init__(drafter, most=most)
        self.price = price

    def observe(self, counts: list[int], decoding: int, seconds: float) -> None:
        """See ``Speculator``; ``seconds`` is replaced."""
        super().observe(counts, decoding, self.price(sum(counts)))
