"""Samplers over the whole vocabulary: what a chain applies until one of them makes a list of the candidates.

Each has the meaning of its counterpart in ``numpy_impl/sorted_candidates``, and reads only the tokens that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tailrace.engine.sampling.candidates import Candidates, tokens_covering
from tailrace.engine.sampling.logits_ops.arrays import Float64Array, TokenIds
from tailrace.engine.sampling.logits_ops.formulas import (
    MIN_PROBABILITY,
    MIROSTAT_SAMPLE,
    dynamic_temperature,
    mirostat_k,
)
from tailrace.engine.sampling.logits_ops.sampler_steps import STEP, SamplerKind

#: typical_p looks for tokens within a distance of the expected surprise. Up to this one the distance doubles each time.
_MAX_DOUBLED_DISTANCE = 64.0
#: typical_p's bisections, at most.
_MAX_BISECTIONS = 20
_LOWEST = float(np.finfo(np.float32).min)


def run_step(candidates: Candidates, kind: int, count: int, a: float, b: float, c: float) -> None:
    """Apply one sampler (see ``STEP``) to candidates that aren't a list yet."""
    if candidates.min_logit > -math.inf and not (
        # A list of the best tokens is cut by min_logit afterwards.
        kind == SamplerKind.TOP_K or (kind == SamplerKind.TEMPERATURE and b <= 0.0)
    ):
        candidates.apply_min_logit()
    if candidates.token_ids is not None:
        candidates.run_list_samplers(np.array([(kind, count, a, b, c)], STEP))
        return
    _SAMPLERS[kind](candidates, count, a, b, c)


def _sum_exp(candidates: Candidates) -> float:
    if candidates.temperature == 1.0:
        return candidates.view.sum_exp()
    return candidates.view.sum_exp_and_entropy(candidates.temperature)[0]


def _scaled_distances(candidates: Candidates, ids: TokenIds) -> Float64Array:
    """The distances of these tokens' logits from the greatest one, with the temperature."""
    distances: Float64Array = candidates.row[ids].astype(np.float64) - candidates.view.max_logit
    return distances / candidates.temperature


def _top_k(candidates: Candidates, k: int, _a: float, _b: float, _c: float) -> None:
    if k <= 0:
        return
    if k > candidates.MAX_LIST:
        _large_top_k(candidates, k)
        return
    candidates.make_top_k_list(k)


def _large_top_k(candidates: Candidates, k: int) -> None:
    """top_k without sorting."""
    ids = candidates.view.tokens_above(candidates.min_logit)
    if len(ids) > k:
        logits = candidates.row[ids]
        lowest = np.partition(logits, -k)[-k]
        selected = logits > lowest
        selected[(logits == lowest).nonzero()[0][: k - np.count_nonzero(selected)]] = True
        ids = ids[selected]
    candidates.n_candidates = min(candidates.n_candidates, k)
    candidates.restrict_to(ids)


def _top_p(candidates: Candidates, min_keep: int, p: float, _b: float, _c: float) -> None:
    min_mass = p * _sum_exp(candidates)
    ids = tokens_covering(candidates.row, candidates.view, min_mass, candidates.temperature)
    mass = np.exp(_scaled_distances(candidates, ids)).cumsum()
    first = int(mass.searchsorted(min_mass))
    if first < len(mass):
        _top_k(candidates, max(first + 1, min_keep), 0.0, 0.0, 0.0)


def _min_p(candidates: Candidates, min_keep: int, log_p: float, _b: float, _c: float) -> None:
    ids = candidates.view.tokens_above(candidates.view.max_logit + candidates.temperature * log_p)
    if len(ids) < min_keep:
        _top_k(candidates, min_keep, 0.0, 0.0, 0.0)
        return
    candidates.n_candidates = len(ids)
    candidates.restrict_to(ids)


def _typical(candidates: Candidates, min_keep: int, p: float, _b: float, _c: float) -> None:
    total, entropy = candidates.view.sum_exp_and_entropy(candidates.temperature)
    # A token's surprise is log(total) less its distance from the greatest logit. So the expected distance is:
    mean_distance = math.log(total) - entropy
    min_mass = p * total
    ids, distances, deviations = _near_mean(candidates, mean_distance, min_mass, min_keep)
    probs = np.exp(distances)
    low, high = _typical_bounds(probs, deviations, min_mass, min_keep)
    selected = deviations <= low
    undecided = ((deviations > low) & (deviations <= high)).nonzero()[0]
    undecided = undecided[np.lexsort((-distances[undecided], deviations[undecided]))]
    n_selected = int(np.count_nonzero(selected))
    reached = np.flatnonzero(probs[selected].sum() + probs[undecided].cumsum() > min_mass)
    n_kept = max(n_selected + int(reached[0]) + 1, min_keep) if len(reached) else candidates.n_candidates
    selected[undecided[: n_kept - n_selected]] = True
    candidates.n_candidates = min(candidates.n_candidates, n_kept)
    candidates.restrict_to(np.sort(ids[selected]))


def _near_mean(
    candidates: Candidates, mean_distance: float, min_mass: float, min_keep: int
) -> tuple[TokenIds, Float64Array, Float64Array]:
    """Tokens around the mean distance that hold more than ``min_mass``, or all: ids, distances, and deviations from the
    mean.
    """
    reach = 1.0
    while True:
        bound = candidates.view.max_logit + candidates.temperature * (mean_distance - reach)
        ids = candidates.view.tokens_above(bound)
        distances = _scaled_distances(candidates, ids)
        deviations = np.abs(distances - mean_distance)
        near = deviations <= reach
        if np.exp(distances[near]).sum() > min_mass and np.count_nonzero(near) >= min_keep:
            return ids[near], distances[near], deviations[near]
        if bound < _LOWEST:
            return ids, distances, deviations  # These are all tokens.
        reach *= 2.0 if reach < _MAX_DOUBLED_DISTANCE else _MAX_DOUBLED_DISTANCE


def _typical_bounds(
    probs: Float64Array, deviations: Float64Array, min_mass: float, min_keep: int
) -> tuple[float, float]:
    """Two deviations: tokens up to the first surely stay, tokens beyond the second don't. Bisection keeps the number of
    tokens in between small, because they have to be sorted.
    """
    low, high = -1.0, float(deviations.max(initial=0.0))
    for _ in range(_MAX_BISECTIONS):
        if np.count_nonzero((deviations > low) & (deviations <= high)) <= Candidates.MAX_LIST:
            break
        middle = (low + high) / 2.0
        within = deviations <= middle
        if probs[within].sum() > min_mass and np.count_nonzero(within) >= min_keep:
            high = middle
        else:
            low = middle
    return low, high


def _xtc(candidates: Candidates, min_keep: int, probability: float, threshold: float, number: float) -> None:
    if number > probability or candidates.n_candidates < 2:
        return
    total = _sum_exp(candidates)
    min_distance = math.log(threshold * total) if threshold > 0.0 else -math.inf
    ids = candidates.view.tokens_above(candidates.view.max_logit + candidates.temperature * min_distance)
    n_dropped = len(ids) - 1
    if n_dropped > 0 and candidates.n_candidates - n_dropped >= min_keep:
        logits = candidates.row[ids]
        least_likely = int((logits == logits.min()).nonzero()[0][-1])
        candidates.exclude(np.delete(ids, least_likely))
        candidates.n_candidates -= n_dropped


def _temperature(
    candidates: Candidates, _count: int, temperature: float, dynatemp_range: float, exponent: float
) -> None:
    if dynatemp_range > 0.0:
        if candidates.n_candidates < 2:
            return
        _, entropy = candidates.view.sum_exp_and_entropy(candidates.temperature)
        temperature = dynamic_temperature(temperature, dynatemp_range, exponent, entropy, candidates.n_candidates)
    if temperature > 0.0:
        candidates.temperature *= temperature
        return
    n_candidates = candidates.n_candidates
    _top_k(candidates, 1, 0.0, 0.0, 0.0)
    candidates.n_candidates = n_candidates


def _top_n_sigma(candidates: Candidates, _count: int, n_sigma: float, _b: float, _c: float) -> None:
    if candidates.n_candidates > 1:
        _, deviation = candidates.view.mean_and_deviation()
        bound = candidates.view.max_logit - n_sigma * deviation
        if math.isfinite(bound):
            candidates.min_logit = min(bound, candidates.view.max_logit)


def _mirostat(candidates: Candidates, vocabulary_size: int, mu: float, _b: float, _c: float) -> None:
    total = candidates.view.sum_exp_and_entropy(candidates.temperature)[0]
    n_sample = min(MIROSTAT_SAMPLE, candidates.n_candidates)
    ids = candidates.view.top_k(n_sample)
    normalised = np.zeros(n_sample)
    normalised[: len(ids)] = np.exp(_scaled_distances(candidates, ids)) / total
    normalised[normalised < MIN_PROBABILITY] = 0.0
    _top_k(candidates, mirostat_k(normalised, mu, vocabulary_size), 0.0, 0.0, 0.0)


def _mirostat_v2(candidates: Candidates, _count: int, mu: float, _b: float, _c: float) -> None:
    view, temperature = candidates.view, candidates.temperature
    min_distance = math.log(view.sum_exp_and_entropy(temperature)[0]) - mu * math.log(2.0)
    bound = view.max_logit + temperature * min_distance
    ids = view.tokens_above(bound) if min_distance <= 0.0 else view.top_k(1)
    candidates.n_candidates = len(ids)
    candidates.restrict_to(ids)


_SAMPLERS: dict[int, Callable[[Candidates, int, float, float, float], None]] = {
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
