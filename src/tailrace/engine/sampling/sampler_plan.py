"""Which of a request's samplers act, and in what way: so that an unused sampler costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import msgspec

from tailrace.engine.sampling import dry
from tailrace.generation_params import SAMPLER_ORDER, SamplerName, Sampling

#: Samplers that change logits: see ``LogitsProcessor``.
LOGITS_PROCESSORS: frozenset[SamplerName] = frozenset({"penalties", "dry"})
#: Samplers that never drop the best token.
_KEEP_BEST: frozenset[SamplerName] = frozenset({"top_k", "top_p", "min_p", "top_n_sigma"})
#: The samplers that ``LogitsView.filter`` applies, in its order.
_FAST_PATH: tuple[SamplerName, ...] = ("top_k", "top_p", "min_p", "temperature")


@dataclass(slots=True)
class SamplerPlan:
    """How a request's tokens are chosen."""

    leading: list[SamplerName]  #: the logits processors before all other samplers, in order
    rest: list[SamplerName] = field(default_factory=list)  #: the samplers behind them
    greedy: bool = False  #: the best token after ``leading`` is chosen
    #: The parameters for ``LogitsView.filter`` if ``rest`` is the usual filters in the usual order; None: a ``Chain``.
    fast_path: Sampling | None = None


def plan_samplers(params: Sampling) -> SamplerPlan:
    """The plan for these parameters."""
    if params.mirostat:
        return SamplerPlan([], ["temperature"], greedy=params.temperature <= 0.0)
    order = SAMPLER_ORDER if params.samplers is None else params.samplers
    active = [name for name in order if _is_active(name, params)]
    leading = list(takewhile(lambda name: name in LOGITS_PROCESSORS, active))
    rest = active[len(leading) :]
    before_temperature = list(takewhile(lambda name: name != "temperature", rest))
    return SamplerPlan(
        leading,
        rest,
        greedy=(
            len(before_temperature) < len(rest)
            and params.temperature <= 0.0 >= params.dynatemp_range
            and _KEEP_BEST.issuperset(before_temperature)
            and "infill" not in rest
        ),
        fast_path=_fast_path_params(params, rest),
    )


def _is_active(name: SamplerName, params: Sampling) -> bool:
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


def _fast_path_params(params: Sampling, rest: list[SamplerName]) -> Sampling | None:
    usual = [name for name in _FAST_PATH if name in rest]
    if rest != usual or params.min_keep > 1 or ("temperature" in rest and params.dynatemp_range > 0.0):
        return None
    off: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
    missing = {name: value for name, value in off.items() if name not in rest}
    return msgspec.structs.replace(params, **missing) if missing else params
