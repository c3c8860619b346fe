"""Samplers in the order that a request wants them in, as llama.cpp's server builds its chain.

``plan`` says which of them do anything at all, so that what isn't used costs nothing. Random numbers come from the
request's own generator, and state (mirostat, adaptive-p) follows the tokens that were chosen: a step gives the same
token whether it was drafted or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np

from tailrace.engine.sampling import dry, logits_ops
from tailrace.engine.sampling.adaptive_p import AdaptiveP
from tailrace.engine.sampling.candidates import Candidates, Change, Weights
from tailrace.engine.sampling.infill import Infill
from tailrace.engine.sampling.logits_ops import Ids, LogitsRow, Mask
from tailrace.engine.sampling.logits_ops import narrowing as kinds
from tailrace.protocol import SAMPLER_ORDER, SamplerName, Sampling

#: Samplers that change logits.
CHANGES: frozenset[SamplerName] = frozenset({"penalties", "dry"})
#: What the best token always passes.
_KEEP_BEST: frozenset[SamplerName] = frozenset({"top_k", "top_p", "min_p", "top_n_sigma"})
_PLAIN: tuple[SamplerName, ...] = ("top_k", "top_p", "min_p", "temperature")


@dataclass(slots=True)
class Plan:
    """What a request's samplers come to."""

    leading: list[SamplerName]  #: penalties and DRY that come first, in order
    rest: list[SamplerName] = field(default_factory=list)
    greedy: bool = False  #: the best token is chosen after ``leading``
    #: ``rest`` are the usual filters in the usual order, as these parameters have them; None: they are a ``Chain``.
    plain: Sampling | None = None


def plan(params: Sampling) -> Plan:
    """Which samplers act, and in what way."""
    if params.mirostat:
        return Plan([], ["temperature"], greedy=params.temperature <= 0.0)
    order = SAMPLER_ORDER if params.samplers is None else params.samplers
    active = [name for name in order if _acts(name, params)]
    leading = list(takewhile(lambda name: name in CHANGES, active))
    rest = active[len(leading) :]
    before = list(takewhile(lambda name: name != "temperature", rest))
    return Plan(
        leading,
        rest,
        greedy=(
            len(before) < len(rest)
            and params.temperature <= 0.0 >= params.dynatemp_range
            and _KEEP_BEST.issuperset(before)
            and "infill" not in rest
        ),
        plain=_plain(params, rest),
    )


def _acts(name: SamplerName, params: Sampling) -> bool:
    match name:
        case "penalties":
            repeats = params.repeat_penalty != 1.0 and params.repeat_last_n != 0
            return repeats or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        case "dry":
            return dry.is_on(params)
        case "top_n_sigma":
            return params.top_n_sigma > 0.0
        case "top_k":
            return params.top_k > 0
        case "typ_p":
            return params.typical_p < 1.0
        case "top_p":
            return params.top_p < 1.0
        case "min_p":
            return params.min_p > 0.0
        case "xtc":
            return params.xtc_probability > 0.0 and params.xtc_threshold <= 0.5
        case "temperature":
            return params.temperature != 1.0 or params.dynatemp_range > 0.0
        case "infill":
            return True
        case "adaptive_p":
            return params.adaptive_target >= 0.0


def _plain(params: Sampling, rest: list[SamplerName]) -> Sampling | None:
    usual = [name for name in _PLAIN if name in rest]
    if rest != usual or params.min_keep > 1 or ("temperature" in rest and params.dynatemp_range > 0.0):
        return None
    off: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
    missing = {name: value for name, value in off.items() if name not in rest}
    return msgspec.structs.replace(params, **missing) if missing else params


class Chain:
    """One sequence's samplers behind those that come first."""

    __slots__ = ("_adaptive", "_changes", "_infill", "_mirostat", "_mu", "_order", "_params", "_steps", "_xtc")

    def __init__(
        self, params: Sampling, rest: list[SamplerName], changes: list[Change], infill: Infill | None = None
    ) -> None:
        """``changes``: the penalties and DRY among ``rest``, in order."""
        self._params = params
        self._changes = changes
        self._infill = infill
        self._adaptive = AdaptiveP(params.adaptive_target, params.adaptive_decay) if "adaptive_p" in rest else None
        steps: list[tuple[int, int, float, float, float]] = []
        #: A step's number, or None for what isn't one: the next of ``changes``, and -1 for infill.
        self._order: list[int | None] = []
        for name in rest:
            if name in CHANGES:
                self._order.append(None)
            elif name == "infill":
                self._order.append(-1)
            elif name != "adaptive_p":
                self._order.append(len(steps))
                steps.append(_step(name, params))
        self._mirostat = bool(params.mirostat)
        self._mu = 2.0 * params.mirostat_tau
        if self._mirostat:
            self._order.append(len(steps))
            steps.append((kinds.MIROSTAT if params.mirostat == 1 else kinds.MIROSTAT_V2, 0, self._mu, 0.0, 0.0))
        self._steps = np.array(steps, kinds.STEP)
        self._xtc = np.flatnonzero(self._steps["kind"] == kinds.XTC).tolist()

    def weigh(
        self, row: LogitsRow, mask: Mask | None, scan: logits_ops.LogitsView, random: np.random.Generator
    ) -> tuple[Ids | None, Weights]:
        """The tokens that can be drawn (None: all) and their probabilities over the likeliest one's. ``row`` is left as
        it was. Raises SamplingError.
        """
        steps = self._steps
        for place in self._xtc:
            steps["c"][place] = random.random()
        if self._mirostat:
            steps["a"][-1] = self._mu
            steps["count"][-1] = len(row)
        candidates = Candidates(row, mask, scan)
        try:
            return self._weigh(candidates)
        finally:
            candidates.undo()

    def _weigh(self, candidates: Candidates) -> tuple[Ids | None, Weights]:
        steps, changes = self._steps, iter(self._changes)
        begin = end = 0  #: steps that a list is still to take, in one call
        for place in self._order:
            if place is not None and place >= 0:
                if candidates.ids is None:
                    candidates.take_whole(*steps[place].item())
                    begin = place + 1
                end = place + 1
                continue
            if candidates.ids is not None and begin < end:
                candidates.take(steps[begin:end])
            begin = end
            if place is None:
                candidates.change(next(changes))
            elif self._infill is not None:
                self._infill.apply(candidates)
        ids, weights = candidates.finish(steps[begin:end])
        if self._adaptive is None:
            return ids, weights
        if ids is None:
            ids, weights = candidates.everything()
        return ids, self._adaptive.transform(weights)

    def choose(self, weights: Weights, place: int) -> None:
        """The token at ``place`` of ``weights``, which ``weigh`` gave last, has been drawn."""
        if self._mirostat:
            part = float(weights[place]) / float(weights.sum(dtype=np.float64))
            self._mu -= self._params.mirostat_eta * (-math.log2(part) - self._params.mirostat_tau)
        if self._adaptive is not None:
            self._adaptive.choose(place)


def _step(name: SamplerName, params: Sampling) -> tuple[int, int, float, float, float]:
    keep = params.min_keep
    match name:
        case "top_k":
            return kinds.TOP_K, params.top_k, 0.0, 0.0, 0.0
        case "top_p":
            return kinds.TOP_P, keep, params.top_p, 0.0, 0.0
        case "min_p":
            return kinds.MIN_P, keep, math.log(params.min_p), 0.0, 0.0
        case "typ_p":
            return kinds.TYPICAL, keep, params.typical_p, 0.0, 0.0
        case "xtc":
            return kinds.XTC, keep, params.xtc_probability, params.xtc_threshold, 0.0
        case "temperature":
            spread = 0.0 if params.mirostat else params.dynatemp_range
            return kinds.TEMPERATURE, 0, params.temperature, spread, params.dynatemp_exponent
        case "top_n_sigma":
            return kinds.TOP_N_SIGMA, 0, params.top_n_sigma, 0.0, 0.0
    raise AssertionError(f"{name} is no step")
