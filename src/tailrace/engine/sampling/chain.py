"""Samplers in the order that a request gives them, as llama.cpp's server builds its sampler chain.

Random numbers come from the request's own generator, and state (mirostat, adaptive-p) follows the chosen tokens. So a
position gives the same token whether it was drafted or not.
"""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.adaptive_p import AdaptiveP
from tailrace.engine.sampling.candidates import Candidates, LogitsProcessor
from tailrace.engine.sampling.full_row_samplers import run_step
from tailrace.engine.sampling.infill import Infill
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask, Probabilities, TokenIds
from tailrace.engine.sampling.logits_ops.interface import LogitsView
from tailrace.engine.sampling.logits_ops.sampler_steps import STEP, SamplerKind
from tailrace.engine.sampling.sampler_plan import LOGITS_PROCESSORS
from tailrace.generation_params import SamplerName, Sampling

#: Entries of ``Chain._order`` that aren't the index of a step.
_PROCESSOR, _INFILL = -1, -2


class Chain:
    """One sequence's samplers behind the leading logits processors."""

    __slots__ = (
        "_adaptive_p",
        "_infill",
        "_mirostat",
        "_mu",
        "_order",
        "_params",
        "_processors",
        "_steps",
        "_xtc_steps",
    )

    def __init__(
        self,
        params: Sampling,
        names: list[SamplerName],
        processors: list[LogitsProcessor],
        infill: Infill | None = None,
    ) -> None:
        """``processors`` are the logits processors among ``names``, in order."""
        self._params = params
        self._processors = processors
        self._infill = infill
        self._adaptive_p = AdaptiveP(params.adaptive_target, params.adaptive_decay) if "adaptive_p" in names else None
        steps: list[tuple[int, int, float, float, float]] = []
        self._order: list[int] = []
        for name in names:
            if name in LOGITS_PROCESSORS:
                self._order.append(_PROCESSOR)
            elif name == "infill":
                self._order.append(_INFILL)
            elif name != "adaptive_p":
                self._order.append(len(steps))
                steps.append(_step(name, params))
        self._mirostat = bool(params.mirostat)
        self._mu = 2.0 * params.mirostat_tau
        if self._mirostat:
            self._order.append(len(steps))
            kind = SamplerKind.MIROSTAT if params.mirostat == 1 else SamplerKind.MIROSTAT_V2
            steps.append((kind, 0, self._mu, 0.0, 0.0))
        self._steps = np.array(steps, STEP)
        self._xtc_steps = np.flatnonzero(self._steps["kind"] == SamplerKind.XTC).tolist()

    def probabilities(
        self, row: LogitsRow, mask: Mask | None, view: LogitsView, random: np.random.Generator
    ) -> tuple[TokenIds | None, Probabilities]:
        """The tokens that can be drawn (None: all) and their relative probabilities. ``row`` is unchanged afterwards.
        Raises SamplingError.
        """
        steps = self._steps
        for index in self._xtc_steps:
            steps["c"][index] = random.random()
        if self._mirostat:
            steps["a"][-1] = self._mu
            steps["count"][-1] = len(row)
        candidates = Candidates(row, mask, view)
        try:
            return self._run(candidates)
        finally:
            candidates.restore_row()

    def _run(self, candidates: Candidates) -> tuple[TokenIds | None, Probabilities]:
        steps, processors = self._steps, iter(self._processors)
        begin = end = 0  #: steps that are still to be applied to the list, in one call
        for index in self._order:
            if index >= 0:
                if candidates.token_ids is None:
                    run_step(candidates, *steps[index].item())
                    begin = index + 1
                end = index + 1
                continue
            if candidates.token_ids is not None and begin < end:
                candidates.run_list_samplers(steps[begin:end])
            begin = end
            if index == _PROCESSOR:
                candidates.process(next(processors))
            elif self._infill is not None:
                self._infill.apply(candidates)
        ids, probs = candidates.finish(steps[begin:end])
        if self._adaptive_p is None:
            return ids, probs
        if ids is None:
            ids, probs = candidates.all_tokens()
        return ids, self._adaptive_p.transform(probs)

    def accept(self, probs: Probabilities, index: int) -> None:
        """The token at ``index`` of ``probs``, the last result of ``probabilities``, was drawn."""
        if self._mirostat:
            probability = float(probs[index]) / float(probs.sum(dtype=np.float64))
            self._mu -= self._params.mirostat_eta * (-math.log2(probability) - self._params.mirostat_tau)
        if self._adaptive_p is not None:
            self._adaptive_p.accept(index)


def _step(name: SamplerName, params: Sampling) -> tuple[int, int, float, float, float]:
    """See ``STEP``."""
    min_keep = params.min_keep
    match name:
        case "top_k":
            return SamplerKind.TOP_K, params.top_k, 0.0, 0.0, 0.0
        case "top_p":
            return SamplerKind.TOP_P, min_keep, params.top_p, 0.0, 0.0
        case "min_p":
            return SamplerKind.MIN_P, min_keep, math.log(params.min_p), 0.0, 0.0
        case "typ_p":
            return SamplerKind.TYPICAL, min_keep, params.typical_p, 0.0, 0.0
        case "xtc":
            return SamplerKind.XTC, min_keep, params.xtc_probability, params.xtc_threshold, 0.0
        case "temperature":
            dynatemp_range = 0.0 if params.mirostat else params.dynatemp_range
            return SamplerKind.TEMPERATURE, 0, params.temperature, dynatemp_range, params.dynatemp_exponent
        case "top_n_sigma":
            return SamplerKind.TOP_N_SIGMA, 0, params.top_n_sigma, 0.0, 0.0
    raise AssertionError(f"{name} is no step")
