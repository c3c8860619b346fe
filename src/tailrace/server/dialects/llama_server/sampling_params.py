"""Translates llama-server's sampling fields into ``Sampling``, and ``Sampling`` into ``generation_settings``."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from tailrace.generation_params import SAMPLER_ORDER, Sampling
from tailrace.server.dialects.llama_server.piecewise_prompt import PieceTokenizer, TextPiece
from tailrace.server.dialects.llama_server.request_fields import NativeFields
from tailrace.server.dialects.openai.sampler_fields import sampler_values

#: The seed that means a random one, besides -1.
RANDOM_SEED = 2**32 - 1
#: Ranges of which the nearest value is taken.
_CLAMPED: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "adaptive_target": (-1.0, 1.0),
}
#: Fields of both structs with the same meaning, beside those of ``sampler_values``.
_SAME = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "frequency_penalty",
    "presence_penalty",
)


async def sampling_of(request: NativeFields, tokens: PieceTokenizer, banned: tuple[int, ...]) -> Sampling:
    """The engine's sampling for these fields; ``banned`` tokens can't be chosen. Raises RequestError."""
    nearest = {
        name: min(max(value, lower), upper)
        for name, (lower, upper) in _CLAMPED.items()
        if (value := getattr(request, name)) is not None
    }
    request = msgspec.structs.replace(request, **nearest)
    values = sampler_values(request)
    values |= {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    bias = await _bias(request, tokens)
    bias |= dict.fromkeys(banned, -math.inf)
    seed = None if request.seed in (None, -1, RANDOM_SEED) else request.seed
    # numpy's generators take non-negative seeds.
    return Sampling(**values, logit_bias=bias, seed=None if seed is None else seed % 2**64)


async def _bias(request: NativeFields, tokens: PieceTokenizer) -> dict[int, float]:
    """The bias of each token. A text's is that of all of its tokens. Raises RequestError."""
    given = request.logit_bias or []
    pairs = list(given.items()) if isinstance(given, dict) else given
    texts = {key: TextPiece(key, special=False) for key, _ in pairs if isinstance(key, str) and not _is_number(key)}
    await tokens.tokenize(list(texts.values()), "logit_bias")
    bias: dict[int, float] = {}
    for key, value in pairs:
        amount = -math.inf if value is False else float(value)
        if isinstance(key, str) and key in texts:
            bias |= dict.fromkeys(tokens.tokens_of(texts[key]), amount)
        else:
            bias[int(key)] = amount
    return bias


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


def sampling_object(sampling: Sampling) -> dict[str, Any]:
    """The sampling part of ``generation_settings``."""
    fields = msgspec.structs.asdict(sampling)
    del fields["penalize_nl"]
    fields["seed"] = RANDOM_SEED if sampling.seed is None else sampling.seed
    fields["samplers"] = list(SAMPLER_ORDER if sampling.samplers is None else sampling.samplers)
    fields["logit_bias"] = [{"token": token, "bias": amount} for token, amount in sampling.logit_bias.items()]
    return fields
