"""adaptive-p: tokens near a probability are preferred, and the next one's is corrected by what the last ones had."""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.candidates import Weights

#: llama.cpp's: how wide the preference is, how high, and how steeply it falls.
_WIDTH = 0.3
_PEAK = 5.0
_SHARPNESS = 10.0
_MAX_DECAY = 0.99


class AdaptiveP:
    """One sequence's target, and a decaying mean of the chosen tokens' probabilities."""

    __slots__ = ("_before", "_decay", "_target", "_total", "_weight")

    def __init__(self, target: float, decay: float) -> None:
        """``target`` from 0 to 1."""
        self._target = target
        self._decay = min(decay, _MAX_DECAY)
        self._weight = 1.0 / (1.0 - self._decay)
        self._total = target * self._weight
        self._before: Weights = np.empty(0)

    def transform(self, weights: Weights) -> Weights:
        """What becomes of candidates' probabilities over the best one's."""
        parts = weights / weights.sum(dtype=np.float64)
        self._before = parts
        wanted = min(1.0, max(0.0, 2.0 * self._target - self._total / self._weight))
        away = np.abs(parts - wanted) / _WIDTH
        logits = _PEAK - _SHARPNESS * away * away / (1.0 + away)
        changed: Weights = np.exp(logits - logits.max())
        return changed

    def choose(self, place: int) -> None:
        """The candidate at ``place`` was drawn."""
        self._total = float(self._before[place]) + self._decay * self._total
        self._weight = 1.0 + self._decay * self._weight
