"""llama.cpp's adaptive-p sampler: it prefers tokens near a target probability, and corrects the target by the
probabilities of the tokens chosen last.
"""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Probabilities

#: llama.cpp's: how wide the preference is, how high, and how steeply it falls.
_WIDTH = 0.3
_PEAK = 5.0
_SHARPNESS = 10.0
_MAX_DECAY = 0.99


class AdaptiveP:
    """One sequence's target, and a decaying mean of the chosen tokens' probabilities."""

    __slots__ = ("_decay", "_normalised", "_target", "_total", "_weight")

    def __init__(self, target: float, decay: float) -> None:
        """``target`` is from 0 to 1."""
        self._target = target
        self._decay = min(decay, _MAX_DECAY)
        self._weight = 1.0 / (1.0 - self._decay)
        self._total = target * self._weight
        self._normalised: Probabilities = np.empty(0)

    def transform(self, probs: Probabilities) -> Probabilities:
        """The candidates' relative probabilities after this sampler."""
        normalised = probs / probs.sum(dtype=np.float64)
        self._normalised = normalised
        target = min(1.0, max(0.0, 2.0 * self._target - self._total / self._weight))
        distance = np.abs(normalised - target) / _WIDTH
        logits = _PEAK - _SHARPNESS * distance * distance / (1.0 + distance)
        transformed: Probabilities = np.exp(logits - logits.max())
        return transformed

    def accept(self, index: int) -> None:
        """The candidate at ``index`` was drawn."""
        self._total = float(self._normalised[index]) + self._decay * self._total
        self._weight = 1.0 + self._decay * self._weight
