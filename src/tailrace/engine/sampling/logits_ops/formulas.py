"""Formulas of samplers that the implementations and the samplers over the whole vocabulary share."""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Float64Array, LogitsRow

#: The maximum of 1 / temperature: with infinity, the best token's 0 would become NaN.
MAX_INVERSE_TEMPERATURE = 1e30
#: Candidates by which mirostat's first version estimates the distribution.
MIROSTAT_SAMPLE = 100
#: Lower probabilities are 0 in llama.cpp's single precision.
MIN_PROBABILITY = 1e-45
#: With a negative exponent the temperature would be infinite where there is no entropy.
_MAX_TEMPERATURE = 1e30
#: The limit of llama.cpp's conversion to an int.
_INT_LIMIT = 2.0**31


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


def first_above(cumulative: Float64Array, target: float) -> int:
    """The first index whose sum is above ``target``. If rounding puts it beyond all: the last that adds anything."""
    index = int(cumulative.searchsorted(target, side="right"))
    return index if index < len(cumulative) else int(cumulative.searchsorted(cumulative[-1]))


def dynamic_temperature(
    temperature: float, dynatemp_range: float, exponent: float, entropy: float, n_candidates: int
) -> float:
    """The temperature for this entropy of ``n_candidates`` (from 2): within ``dynatemp_range`` of ``temperature``."""
    lowest = max(0.0, temperature - dynatemp_range)
    with np.errstate(divide="ignore", over="ignore"):
        part = np.power(max(0.0, entropy / math.log(n_candidates)), exponent)
        return min(_MAX_TEMPERATURE, float(lowest + (temperature + dynatemp_range - lowest) * part))


def mirostat_k(normalised: Float64Array, mu: float, vocabulary_size: int) -> int:
    """How many candidates mirostat's first version keeps, by the normalised probabilities of the best ones."""
    ranks = np.arange(1, len(normalised))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.log((ranks + 1) / ranks)
        falls = np.log(normalised[:-1] / normalised[1:])
        slope = np.float64((steps * falls).sum()) / np.float64((steps * steps).sum())
        epsilon = slope - 1.0
        k = np.power(
            epsilon * np.float64(2.0) ** mu / (1.0 - np.power(np.float64(vocabulary_size), -epsilon)), 1.0 / slope
        )
    # llama.cpp's conversion to an int gives the lowest int for what doesn't fit, and then keeps one.
    return max(1, int(k)) if abs(k) < _INT_LIMIT else 1
