"""What samplers leave of a list of candidates, in NumPy: see ``narrow``.

Every sampler that only removes candidates keeps a range of them when they are in falling order, and temperatures keep
the order. So a list is narrowed by moving its two ends, and nothing is copied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling.logits_ops.numpy_impl import Numbers

#: Samplers by the numbers that narrowing.c knows them by.
TOP_K, TOP_P, MIN_P, TYPICAL, XTC, TEMPERATURE, TOP_N_SIGMA, MIROSTAT, MIROSTAT_V2 = range(9)
#: A sampler: its number, ``count`` (top_k's, or how many candidates the others leave at least), and three numbers,
#: whose meaning is in the function of each sampler.
STEP = np.dtype([("kind", "<i8"), ("count", "<i8"), ("a", "<f8"), ("b", "<f8"), ("c", "<f8")])
Steps = npt.NDArray[np.void]

#: Candidates that mirostat's first version estimates the distribution by.
MIROSTAT_SAMPLE = 100
#: Probabilities below are 0 in llama.cpp's single precision.
LEAST = 1e-45
#: The temperature at most: with a negative exponent it would be infinite where there is no entropy.
_HOTTEST = 1e30
#: Distances of logits are no greater, so that the least probability times its distance is 0 and not NaN.
_FARTHEST = -1e300
#: What llama.cpp's conversion to an int can hold.
_INT_LIMIT = 2.0**31


class Narrowed(NamedTuple):
    """Candidates from ``begin`` to before ``end`` are left. ``size`` counts those of probability 0, too, which are not
    in the list. ``weights``: probabilities of those that are left over the first one's.
    """

    begin: int
    end: int
    size: int
    temperature: float
    weights: Numbers


class _Range:
    """The state of one call. Logits are divided by ``temperature``."""

    __slots__ = ("begin", "end", "logits", "size", "temperature")

    def __init__(self, logits: Numbers, size: int, temperature: float) -> None:
        self.logits, self.size, self.temperature = logits, size, temperature
        self.begin, self.end = 0, len(logits)

    def distances(self) -> Numbers:
        """Of each logit from the best: 0 and less."""
        left = self.logits[self.begin : self.end]
        with np.errstate(over="ignore"):
            found: Numbers = np.maximum((left - left[0]) / self.temperature, _FARTHEST)
        return found

    def keep(self, count: int) -> None:
        """The ``count`` best ones stay."""
        self.size = min(self.size, count)
        self.end = min(self.end, self.begin + count)


def narrow(logits: Numbers, size: int, temperature: float, steps: Steps) -> Narrowed:
    """Apply ``steps`` to candidates with these ``logits``, at least one, finite and in falling order; ``size`` counts
    candidates of probability 0 as well.
    """
    left = _Range(logits, size, temperature)
    for kind, count, a, b, c in steps.tolist():
        _SAMPLERS[kind](left, count, a, b, c)
    return Narrowed(left.begin, left.end, left.size, left.temperature, np.exp(left.distances()))


def _top_k(left: _Range, count: int, _a: float, _b: float, _c: float) -> None:
    if count > 0:
        left.keep(count)


def _top_p(left: _Range, count: int, p: float, _b: float, _c: float) -> None:
    mass = np.exp(left.distances()).cumsum()
    first = int(mass.searchsorted(p * mass[-1]))
    if first < len(mass):
        left.keep(max(first + 1, count))


def _min_p(left: _Range, count: int, distance: float, _b: float, _c: float) -> None:
    """``distance``: the logarithm of p."""
    left.keep(max(1, count, int(np.count_nonzero(left.distances() >= distance))))


def _typical(left: _Range, count: int, p: float, _b: float, _c: float) -> None:
    """The candidates whose surprise is nearest to the expected one, until they hold more than p."""
    distances = left.distances()
    weights = np.exp(distances)
    total = weights.sum()
    centre = float((weights * distances).sum() / total)
    # Those above the centre stand before ``below``, and the nearest of both sides is taken each time.
    below = int(np.count_nonzero(distances >= centre))
    order = np.abs(distances - centre).argsort(kind="stable")
    reached = np.flatnonzero(weights[order].cumsum() > p * total)
    if not len(reached):
        return
    kept = max(int(reached[0]) + 1, count)
    many = min(kept, len(order))
    above = int(np.count_nonzero(order[:many] < below))
    left.begin, left.end = left.begin + below - above, left.begin + below + many - above
    left.size = min(left.size, kept)


def _xtc(left: _Range, count: int, probability: float, threshold: float, chance: float) -> None:
    """With ``chance`` up to ``probability``: of the candidates from ``threshold`` on only the least likely one
    stays.
    """
    if chance > probability or left.size < 2:
        return
    weights = np.exp(left.distances())
    dropped = int(np.count_nonzero(weights >= threshold * weights.sum())) - 1
    if dropped > 0 and left.size - dropped >= count:
        left.begin += dropped
        left.size -= dropped


def _temperature(left: _Range, _count: int, temperature: float, spread: float, exponent: float) -> None:
    """``spread``: how far the temperature follows the entropy, from ``temperature`` both ways."""
    if spread > 0.0:
        if left.size < 2:
            return
        distances = left.distances()
        weights = np.exp(distances)
        total = weights.sum()
        entropy = math.log(total) - float((weights * distances).sum() / total)
        temperature = dynamic(temperature, spread, exponent, entropy, left.size)
    if temperature <= 0.0:
        left.end = left.begin + 1
    else:
        left.temperature *= temperature


def dynamic(temperature: float, spread: float, exponent: float, entropy: float, size: int) -> float:
    """The temperature at this entropy of ``size`` (from 2) candidates."""
    least = max(0.0, temperature - spread)
    with np.errstate(divide="ignore", over="ignore"):
        part = np.power(max(0.0, entropy / math.log(size)), exponent)
        return min(_HOTTEST, float(least + (temperature + spread - least) * part))


def _top_n_sigma(left: _Range, _count: int, many: float, _b: float, _c: float) -> None:
    if left.size < 2:
        return
    distances = left.distances()
    mean = distances.sum() / len(distances)
    with np.errstate(over="ignore"):
        deviation = math.sqrt(((distances - mean) ** 2).sum() / len(distances))
    left.end = left.begin + max(1, int(np.count_nonzero(distances >= -many * deviation)))


def _mirostat(left: _Range, vocabulary: int, mu: float, _b: float, _c: float) -> None:
    """So many candidates as a power law, estimated by the best ones, says have the surprise ``mu``, in bits."""
    sample = min(MIROSTAT_SAMPLE, left.size)
    weights = np.exp(left.distances())
    parts = np.zeros(sample)
    seen = min(sample, len(weights))
    parts[:seen] = weights[:seen] / weights.sum()
    parts[parts < LEAST] = 0.0
    left.keep(power_law(parts, mu, vocabulary))


def power_law(parts: Numbers, mu: float, vocabulary: int) -> int:
    """How many candidates mirostat's first version keeps, by the probabilities of the best ones."""
    ranks = np.arange(1, len(parts))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.log((ranks + 1) / ranks)
        falls = np.log(parts[:-1] / parts[1:])
        slope = np.float64((steps * falls).sum()) / np.float64((steps * steps).sum())
        epsilon = slope - 1.0
        many = np.power(
            epsilon * np.float64(2.0) ** mu / (1.0 - np.power(np.float64(vocabulary), -epsilon)), 1.0 / slope
        )
    # What doesn't fit into an int becomes the least one there.
    return max(1, int(many)) if abs(many) < _INT_LIMIT else 1


def _mirostat_v2(left: _Range, _count: int, mu: float, _b: float, _c: float) -> None:
    """The candidates with a surprise of at most ``mu`` bits, or the best one."""
    distances = left.distances()
    bound = math.log(np.exp(distances).sum()) - mu * math.log(2.0)
    left.keep(max(1, int(np.count_nonzero(distances >= bound))))


_SAMPLERS = {
    TOP_K: _top_k,
    TOP_P: _top_p,
    MIN_P: _min_p,
    TYPICAL: _typical,
    XTC: _xtc,
    TEMPERATURE: _temperature,
    TOP_N_SIGMA: _top_n_sigma,
    MIROSTAT: _mirostat,
    MIROSTAT_V2: _mirostat_v2,
}
