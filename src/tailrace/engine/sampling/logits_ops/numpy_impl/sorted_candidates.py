"""Samplers over a list of candidates in falling order of their logits: see ``LogitsOps.run_samplers``.

A sampler that only removes candidates keeps a range of a sorted list, and a temperature keeps the order. So each
sampler moves the two ends of the range, and nothing is copied.
"""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Float64Array
from tailrace.engine.sampling.logits_ops.formulas import (
    MIN_PROBABILITY,
    MIROSTAT_SAMPLE,
    dynamic_temperature,
    mirostat_k,
)
from tailrace.engine.sampling.logits_ops.sampler_steps import RemainingCandidates, SamplerKind, Steps

#: A logit's distance from the greatest one is limited, so that the lowest probability times it is 0 and not NaN.
_MIN_DISTANCE = -1e300


class _Range:
    """The candidates that are left during one call. Logits are to be divided by ``temperature``."""

    __slots__ = ("begin", "end", "logits", "n_candidates", "temperature")

    def __init__(self, logits: Float64Array, n_candidates: int, temperature: float) -> None:
        self.logits, self.n_candidates, self.temperature = logits, n_candidates, temperature
        self.begin, self.end = 0, len(logits)

    def distances(self) -> Float64Array:
        """Each logit's distance from the greatest one, with the temperature: 0 or less."""
        left = self.logits[self.begin : self.end]
        with np.errstate(over="ignore"):
            found: Float64Array = np.maximum((left - left[0]) / self.temperature, _MIN_DISTANCE)
        return found

    def keep_best(self, count: int) -> None:
        """Keep the ``count`` best candidates."""
        self.n_candidates = min(self.n_candidates, count)
        self.end = min(self.end, self.begin + count)


def run_samplers(logits: Float64Array, n_candidates: int, temperature: float, steps: Steps) -> RemainingCandidates:
    """See ``LogitsOps.run_samplers``."""
    left = _Range(logits, n_candidates, temperature)
    for kind, count, a, b, c in steps.tolist():
        if (sampler := _SAMPLERS.get(kind)) is None:
            raise ValueError(f"there is no sampler {kind}")
        sampler(left, count, a, b, c)
    return RemainingCandidates(left.begin, left.end, left.n_candidates, left.temperature, np.exp(left.distances()))


def _top_k(left: _Range, k: int, _a: float, _b: float, _c: float) -> None:
    if k > 0:
        left.keep_best(k)


def _top_p(left: _Range, min_keep: int, p: float, _b: float, _c: float) -> None:
    mass = np.exp(left.distances()).cumsum()
    first = int(mass.searchsorted(p * mass[-1]))
    if first < len(mass):
        left.keep_best(max(first + 1, min_keep))


def _min_p(left: _Range, min_keep: int, log_p: float, _b: float, _c: float) -> None:
    left.keep_best(max(1, min_keep, int(np.count_nonzero(left.distances() >= log_p))))


def _typical(left: _Range, min_keep: int, p: float, _b: float, _c: float) -> None:
    """Keep the candidates whose surprise is nearest to the expected one, until they hold more than ``p``."""
    distances = left.distances()
    probs = np.exp(distances)
    total = probs.sum()
    mean_distance = float((probs * distances).sum() / total)
    # ``below`` is the first candidate below the mean. The kept range grows from there to both sides.
    below = int(np.count_nonzero(distances >= mean_distance))
    order = np.abs(distances - mean_distance).argsort(kind="stable")
    reached = np.flatnonzero(probs[order].cumsum() > p * total)
    if not len(reached):
        return
    n_kept = max(int(reached[0]) + 1, min_keep)
    n_listed = min(n_kept, len(order))
    above = int(np.count_nonzero(order[:n_listed] < below))
    left.begin, left.end = left.begin + below - above, left.begin + below + n_listed - above
    left.n_candidates = min(left.n_candidates, n_kept)


def _xtc(left: _Range, min_keep: int, probability: float, threshold: float, number: float) -> None:
    """If the random ``number`` is at most ``probability``: of the candidates with at least ``threshold``, only the
    least likely one stays.
    """
    if number > probability or left.n_candidates < 2:
        return
    probs = np.exp(left.distances())
    dropped = int(np.count_nonzero(probs >= threshold * probs.sum())) - 1
    if dropped > 0 and left.n_candidates - dropped >= min_keep:
        left.begin += dropped
        left.n_candidates -= dropped


def _temperature(left: _Range, _count: int, temperature: float, dynatemp_range: float, exponent: float) -> None:
    if dynatemp_range > 0.0:
        if left.n_candidates < 2:
            return
        distances = left.distances()
        probs = np.exp(distances)
        total = probs.sum()
        entropy = math.log(total) - float((probs * distances).sum() / total)
        temperature = dynamic_temperature(temperature, dynatemp_range, exponent, entropy, left.n_candidates)
    if temperature <= 0.0:
        left.end = left.begin + 1
    else:
        left.temperature *= temperature


def _top_n_sigma(left: _Range, _count: int, n_sigma: float, _b: float, _c: float) -> None:
    if left.n_candidates < 2:
        return
    distances = left.distances()
    mean = distances.sum() / len(distances)
    with np.errstate(over="ignore"):
        deviation = math.sqrt(((distances - mean) ** 2).sum() / len(distances))
    left.end = left.begin + max(1, int(np.count_nonzero(distances >= -n_sigma * deviation)))


def _mirostat(left: _Range, vocabulary_size: int, mu: float, _b: float, _c: float) -> None:
    """Keep as many candidates as a power law gives the surprise ``mu``, in bits. The best ones estimate the law."""
    n_sample = min(MIROSTAT_SAMPLE, left.n_candidates)
    probs = np.exp(left.distances())
    normalised = np.zeros(n_sample)
    n_listed = min(n_sample, len(probs))
    normalised[:n_listed] = probs[:n_listed] / probs.sum()
    normalised[normalised < MIN_PROBABILITY] = 0.0
    left.keep_best(mirostat_k(normalised, mu, vocabulary_size))


def _mirostat_v2(left: _Range, _count: int, mu: float, _b: float, _c: float) -> None:
    """Keep the candidates with a surprise of at most ``mu`` bits, or the best one."""
    distances = left.distances()
    bound = math.log(np.exp(distances).sum()) - mu * math.log(2.0)
    left.keep_best(max(1, int(np.count_nonzero(distances >= bound))))


_SAMPLERS = {
    SamplerKind.TOP_K: _top_k,
    SamplerKind.TOP_P: _top_p,
    SamplerKind.MIN_P: _min_p,
    SamplerKind.TYPICAL: _typical,
    SamplerKind.XTC: _xtc,
    SamplerKind.TEMPERATURE: _temperature,
    SamplerKind.TOP_N_SIGMA: _top_n_sigma,
    SamplerKind.MIROSTAT: _mirostat,
    SamplerKind.MIROSTAT_V2: _mirostat_v2,
}
