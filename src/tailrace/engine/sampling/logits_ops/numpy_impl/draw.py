"""Probabilities of the tokens that filters leave, and the draw among them."""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import BLOCK, Float32Array, Float64Array, LogitsRow, Probabilities


def filtered_probs(
    logits: LogitsRow,
    max_logit: float,
    *,
    temperature: float,
    top_p: float,
    sum_exp: float | None = None,
    min_distance: float = -math.inf,
) -> Float64Array:
    """The relative probabilities of the tokens that top_p and min_p leave: a beginning of ``logits``.

    ``logits`` are in falling order. ``sum_exp`` is what ``top_p`` is a part of (None: the sum over ``logits``).
    ``min_distance`` is log(min_p), the lowest distance of a logit from ``max_logit``.
    """
    values = logits.astype(np.float64)
    values -= max_logit
    if top_p < 1.0:
        mass = np.exp(values).cumsum()
        values = values[: int(mass.searchsorted(top_p * (mass[-1] if sum_exp is None else sum_exp))) + 1]
    if min_distance > -math.inf:
        values = values[: np.count_nonzero(values >= min_distance)]
    with np.errstate(over="ignore"):
        probs: Float64Array = values / temperature
    return np.exp(probs, out=probs)


def draw_index(probs: Probabilities, number: float) -> int:
    """See ``LogitsOps.draw_index``."""
    cumulative = probs.cumsum(dtype=np.float64)
    return first_above(cumulative, number * cumulative[-1])


def first_above(cumulative: Float64Array, target: float) -> int:
    """The first index whose sum is above ``target``. If rounding puts it beyond all: the last that adds anything."""
    index = int(cumulative.searchsorted(target, side="right"))
    return index if index < len(cumulative) else int(cumulative.searchsorted(cumulative[-1]))


def block_sums(probs: Float32Array) -> Float64Array:
    """See ``LogitsOps.block_sums``."""
    whole = len(probs) - len(probs) % BLOCK
    sums: Float32Array = np.add.reduce(probs[:whole].reshape(-1, BLOCK), axis=1)  # pairwise, so float32 is enough
    if whole < len(probs):
        sums = np.append(sums, np.add.reduce(probs[whole:]))
    exact: Float64Array = sums.astype(np.float64)
    return exact
