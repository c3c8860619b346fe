"""What a pass over the model costs by the number of its tokens: learned from the steps themselves.

Whether checking 16 drafted tokens costs a tenth of a step (memory-bound: a large model on many cores, a GPU) or seven
steps (compute-bound: a small one on two) decides whether drafting pays, and can't be known beforehand.
"""

from __future__ import annotations

from bisect import bisect_left

#: Sizes at which a cost is kept; between them it is interpolated. Close together where drafts move a step's size.
_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 40, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
#: Part of a one-token pass that one more token costs until it has been seen: low, so that it gets tried.
_GUESS = 0.1
#: Weights of the newest observation: of the machine's speed now, and of one size's cost beside the others'. Speed moves
#: faster: a neighbour that comes or goes, or a context that grows, changes all sizes alike.
_SPEED_WEIGHT = 0.1
_SHAPE_WEIGHT = 0.2
#: One observation counts as no more than so many times (or parts) of what was expected: a step in which the process
#: lost its core says nothing.
_OUTLIER = 4.0


class PassCost:
    """Seconds of a pass by its tokens, as ``speed`` times a shape that is known at the sizes that were seen."""

    __slots__ = ("_known", "_shape", "_speed")

    def __init__(self) -> None:
        self._known: list[int] = []  #: rising
        self._shape: dict[int, float] = {}
        self._speed = 1.0

    @property
    def known(self) -> bool:
        """Whether anything has been observed."""
        return bool(self._known)

    def observe(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        if seconds <= 0.0 or tokens > _SIZES[-1]:
            return
        size = _nearest(tokens)
        if size != tokens and self._known:
            seconds *= self._expected(size) / self._expected(tokens)
        if size not in self._shape:
            self._known.insert(bisect_left(self._known, size), size)
            self._shape[size] = seconds / self._speed
            return
        ratio = min(_OUTLIER, max(1.0 / _OUTLIER, seconds / (self._speed * self._shape[size])))
        self._speed *= ratio**_SPEED_WEIGHT
        self._shape[size] *= ratio**_SHAPE_WEIGHT

    def seconds(self, tokens: int) -> float:
        """What a pass of so many tokens is expected to take. Something must have been observed."""
        return self._speed * self._expected(tokens)

    def _expected(self, tokens: int) -> float:
        known, shape = self._known, self._shape
        if tokens in shape:
            return shape[tokens]
        above = bisect_left(known, tokens)
        if above == 0:
            # Smaller than all that was seen.
            first = known[0]
            return shape[first] * (1.0 + _GUESS * tokens) / (1.0 + _GUESS * first)
        if above == len(known):
            last = known[-1]
            return shape[last] * (1.0 + _GUESS * tokens) / (1.0 + _GUESS * last)
        low, high = known[above - 1], known[above]
        return shape[low] + (shape[high] - shape[low]) * (tokens - low) / (high - low)


def _nearest(tokens: int) -> int:
    above = bisect_left(_SIZES, tokens)
    if above and tokens - _SIZES[above - 1] < _SIZES[above] - tokens:
        return _SIZES[above - 1]
    return _SIZES[above]
