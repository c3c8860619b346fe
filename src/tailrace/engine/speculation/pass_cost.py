"""The pass cost model: seconds of a pass over the model by its number of tokens, learned from the steps themselves.

A step that verifies 16 draft tokens may cost a tenth more (memory-bound: a large model on many cores, a GPU) or seven
times as much (compute-bound: a small model on two cores). That decides whether drafting pays.
"""

from __future__ import annotations

from bisect import bisect_left

#: Numbers of tokens whose cost is remembered; between them it is interpolated. They are close together where drafts
#: change a step's size.
_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 40, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
#: The part of a one-token pass that another token costs until it has been observed: low, so that it gets tried.
_PRIOR_TOKEN_COST = 0.1
#: Weights of the newest observation, for all sizes together and for its own size. All sizes change together when the
#: machine's load or the contexts' lengths change.
_COMMON_WEIGHT = 0.1
_SIZE_WEIGHT = 0.2
#: An observation counts as at most so many times the expected seconds, and at least as this part of them: a step in
#: which the process lost its core says nothing.
_MAX_RATIO = 4.0


class PassCost:
    """Seconds of a pass: a common factor times the relative cost of its size."""

    __slots__ = ("_common_factor", "_observed_sizes", "_relative_costs")

    def __init__(self) -> None:
        self._observed_sizes: list[int] = []  #: rising
        self._relative_costs: dict[int, float] = {}
        self._common_factor = 1.0

    @property
    def has_observations(self) -> bool:
        """Whether any pass has been observed."""
        return bool(self._observed_sizes)

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A pass of ``n_tokens`` took ``seconds``."""
        if seconds <= 0.0 or n_tokens > _SIZES[-1]:
            return
        size = _nearest_size(n_tokens)
        if size != n_tokens and self._observed_sizes:
            seconds *= self._relative_cost(size) / self._relative_cost(n_tokens)
        if size not in self._relative_costs:
            self._observed_sizes.insert(bisect_left(self._observed_sizes, size), size)
            self._relative_costs[size] = seconds / self._common_factor
            return
        ratio = seconds / (self._common_factor * self._relative_costs[size])
        ratio = min(_MAX_RATIO, max(1.0 / _MAX_RATIO, ratio))
        self._common_factor *= ratio**_COMMON_WEIGHT
        self._relative_costs[size] *= ratio**_SIZE_WEIGHT

    def seconds(self, n_tokens: int) -> float:
        """The expected seconds of a pass of ``n_tokens``. There must be observations."""
        return self._common_factor * self._relative_cost(n_tokens)

    def _relative_cost(self, n_tokens: int) -> float:
        sizes, costs = self._observed_sizes, self._relative_costs
        if n_tokens in costs:
            return costs[n_tokens]
        above = bisect_left(sizes, n_tokens)
        if above == 0:
            smallest = sizes[0]
            return costs[smallest] * (1.0 + _PRIOR_TOKEN_COST * n_tokens) / (1.0 + _PRIOR_TOKEN_COST * smallest)
        if above == len(sizes):
            largest = sizes[-1]
            return costs[largest] * (1.0 + _PRIOR_TOKEN_COST * n_tokens) / (1.0 + _PRIOR_TOKEN_COST * largest)
        low, high = sizes[above - 1], sizes[above]
        return costs[low] + (costs[high] - costs[low]) * (n_tokens - low) / (high - low)


def _nearest_size(n_tokens: int) -> int:
    above = bisect_left(_SIZES, n_tokens)
    if above and n_tokens - _SIZES[above - 1] < _SIZES[above] - n_tokens:
        return _SIZES[above - 1]
    return _SIZES[above]
