"""llama-server's sampler fields, with their ranges and their translation into ``Sampling``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.generation_params import SamplerName

Probability = Annotated[float, Meta(ge=0, le=1)]
#: Far beyond anything that is of use, and small enough that no arithmetic with it overflows.
Amount = Annotated[float, Meta(ge=0, le=1000)]
#: From about 20 on all candidates are as likely.
Temperature = Annotated[float, Meta(ge=0, le=100)]
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
#: -1 is everything.
LastTokens = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
#: Each sampler is a pass over the remaining candidates.
MAX_SAMPLERS = 16
#: Each is looked up in the vocabulary, in tens of microseconds to some milliseconds.
MAX_BREAKERS = 32

#: Samplers by the letters of a string such as ``edskypmxt``.
_LETTERS: dict[str, SamplerName] = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "i": "infill",
    "a": "adaptive_p",
}
#: Names of a sampler that llama.cpp has removed. Presets still have it; it is ignored.
_REMOVED_SAMPLERS = frozenset({"tfs_z", "tfs-z", "tfsz", "tfs", "f"})
_NAMES: dict[str, SamplerName] = {
    **{name: name for name in _LETTERS.values()},
    **{name.replace("_", "-"): name for name in _LETTERS.values()},
    **{name.replace("_", ""): name for name in _LETTERS.values()},
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
    "typical_p": "typ_p",
    "typical-p": "typ_p",
    "typical": "typ_p",
}


class SamplerParameters(msgspec.Struct, kw_only=True):
    """llama-server's fields; null equals absent everywhere."""

    typical_p: Probability | None = None
    typ_p: Probability | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1000, le=1000)] | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    dynatemp_range: Temperature | None = None
    dynatemp_exponent: Temperature | None = None
    dry_multiplier: Amount | None = None
    dry_base: Amount | None = None
    dry_allowed_length: Tokens | None = None
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: (
        Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(min_length=1, max_length=MAX_BREAKERS)] | None
    ) = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Amount | None = None
    mirostat_eta: Amount | None = None
    adaptive_target: Annotated[float, Meta(ge=-1000, le=1)] | None = None
    adaptive_decay: Annotated[float, Meta(ge=0, le=0.99)] | None = None
    min_keep: Tokens | None = None
    penalize_nl: bool | None = None
    samplers: (
        Annotated[str, Meta(max_length=MAX_SAMPLERS)]
        | Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(max_length=MAX_SAMPLERS)]
        | None
    ) = None


#: Fields with the same name in ``Sampling``.
_SAME = tuple(
    name
    for name in SamplerParameters.__struct_fields__
    if name not in ("typ_p", "dry_base", "dry_sequence_breakers", "samplers")
)


def sampler_values(parameters: SamplerParameters, where: str = "") -> dict[str, Any]:
    """The values for ``Sampling`` that these parameters give. ``where`` is the prefix of field names in errors.

    Raises InvalidRequest for an unknown sampler."""
    given = {name: value for name in _SAME if (value := getattr(parameters, name)) is not None}
    if parameters.typ_p is not None:
        given.setdefault("typical_p", parameters.typ_p)
    # A base under 1 is the default one, as llama-server takes it.
    if parameters.dry_base is not None and parameters.dry_base >= 1.0:
        given["dry_base"] = parameters.dry_base
    if parameters.dry_sequence_breakers is not None:
        given["dry_sequence_breakers"] = tuple(parameters.dry_sequence_breakers)
    if parameters.samplers is not None:
        given["samplers"] = _order(parameters.samplers, f"{where}samplers")
    return given


def _order(samplers: str | list[str], field: str) -> tuple[SamplerName, ...]:
    """A string has a letter for each sampler, a list names."""
    letters = isinstance(samplers, str)
    known = _LETTERS if letters else _NAMES
    order: list[SamplerName] = []
    for place, given in enumerate(samplers):
        name = known.get(given if letters else given.lower())
        if name is not None:
            order.append(name)
        elif given.lower() not in _REMOVED_SAMPLERS:
            path = field if letters else f"{field}[{place}]"
            there = ", ".join(_LETTERS if letters else _LETTERS.values())
            raise InvalidRequest(
                f"'{path}': there is no sampler '{given}'; there are {there}.",
                param=path,
                code="unsupported_value",
            )
    return tuple(order)
