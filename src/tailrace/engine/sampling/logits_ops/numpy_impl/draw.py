"""The draw of a token among relative probabilities."""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import BLOCK, Float32Array, Float64Array, Probabilities
from tailrace.engine.sampling.logits_ops.formulas import first_above


def draw_index(probs: Probabilities, number: float) -> int:
    """See ``LogitsOps.draw_index``."""
    cumulative = probs.cumsum(dtype=np.float64)
    return first_above(cumulative, number * cumulative[-1])


def block_sums(probs: Float32Array) -> Float64Array:
    """See ``LogitsOps.block_sums``."""
    whole = len(probs) - len(probs) % BLOCK
    sums: Float32Array = np.add.reduce(probs[:whole].reshape(-1, BLOCK), axis=1)  # pairwise, so float32 is enough
    if whole < len(probs):
        sums = np.append(sums, np.add.reduce(probs[whole:]))
    exact: Float64Array = sums.astype(np.float64)
    return exact
