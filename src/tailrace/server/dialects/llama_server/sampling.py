"""From llama-server's sampling fields to the engine's ``Sampling``, and back to what it tells of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.messages import Sampling
from tailrace.server.dialects.llama_server.fields import NativeFields
from tailrace.server.dialects.llama_server.tokens import Text, Tokens

#: Seeds that mean a random one.
RANDOM_SEED = 2**32 - 1
#: What llama-server calls the samplers, its other names for them, and the letters of a chain that is one string.
_NAMES = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
    "infill",
    "adaptive_p",
)
_OTHER_NAMES = {
    **{name.replace("_", "-"): name for name in _NAMES},
    **{name.replace("_", ""): name for name in _NAMES},
    "nucleus": "top_p",
    "temp": "temperature",
    "typ": "typ_p",
    "typical_p": "typ_p",
}
_LETTERS = {
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
_DEFAULT_ORDER = _NAMES[:9]
#: Fields that the engine's sampling may not have, and when they change nothing.
_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "typical_p": lambda value: value >= 1,
    "top_n_sigma": lambda value: value <= 0,
    "xtc_probability": lambda value: value <= 0,
    "dynatemp_range": lambda value: value <= 0,
    "dry_multiplier": lambda value: value == 0,
    "mirostat": lambda value: value == 0,
    "adaptive_target": lambda value: value < 0,
    "min_keep": lambda value: value <= 1,
    "samplers": lambda value: value == _DEFAULT_ORDER,
}
#: Ranges of which the nearest value is taken.
_CLAMPED = {
    "temperature": (0.0, math.inf),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "adaptive_target": (-1.0, 1.0),
}
#: Fields of both structs with the same meaning.
_SAME = (
    *_CLAMPED,
    "repeat_penalty",
    "repeat_last_n",
    "frequency_penalty",
    "presence_penalty",
    "top_n_sigma",
    "dynatemp_range",
    "dynatemp_exponent",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "adaptive_decay",
    "min_keep",
)
_HELD = frozenset(Sampling.__struct_fields__)


async def sampling_of(request: NativeFields, tokens: Tokens, banned: tuple[int, ...]) -> Sampling:
    """The engine's sampling for these fields; ``banned`` tokens can't be chosen. Raises RequestError."""
    wanted: dict[str, Any] = {}
    for name in _SAME:
        if (value := getattr(request, name)) is not None:
            lower, upper = _CLAMPED.get(name, (value, value))
            wanted[name] = tuple(value) if isinstance(value, list) else min(max(value, lower), upper)
    if wanted.get("dry_base", 1.0) < 1.0:
        del wanted["dry_base"]  # llama-server takes its default, too.
    if request.samplers is not None:
        wanted["samplers"] = sampler_names(request.samplers)
    for name in [name for name in wanted if name not in _HELD]:
        if not _NEUTRAL.get(name, lambda value: True)(wanted[name]):
            raise InvalidRequest(f"'{name}': this value is not supported; leave it out.", param=name)
        del wanted[name]
    seed = None if request.seed in (None, -1, RANDOM_SEED) else request.seed
    bias = await _bias(request, tokens)
    bias |= dict.fromkeys(banned, -math.inf)
    # numpy's generators take non-negative seeds.
    return Sampling(**wanted, logit_bias=bias, seed=None if seed is None else seed % 2**64)


def sampler_names(given: str | list[str]) -> tuple[str, ...]:
    """The samplers of a list of names, or of a string of letters. What isn't known is left out, as llama-server does:
    clients send the names of samplers that it had once.
    """
    if isinstance(given, str):
        return tuple(_LETTERS[letter] for letter in given if letter in _LETTERS)
    known = (_OTHER_NAMES.get(name.lower(), name.lower()) for name in given)
    return tuple(name for name in known if name in _NAMES)


async def _bias(request: NativeFields, tokens: Tokens) -> dict[int, float]:
    """The bias of each token. A text's is that of all of its tokens. Raises RequestError."""
    given = request.logit_bias or []
    pairs = list(given.items()) if isinstance(given, dict) else given
    texts = {key: Text(key, special=False) for key, _ in pairs if isinstance(key, str) and not _is_number(key)}
    await tokens.know(list(texts.values()), "logit_bias")
    bias: dict[int, float] = {}
    for key, value in pairs:
        amount = -math.inf if value is False else float(value)
        if isinstance(key, str) and key in texts:
            bias |= dict.fromkeys(tokens.of(texts[key]), amount)
        else:
            bias[int(key)] = amount
    return bias


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


def sampling_object(sampling: Sampling) -> dict[str, Any]:
    """What llama-server tells of it. Fields that the engine doesn't have are off."""
    held = msgspec.structs.asdict(sampling)
    samplers = held.get("samplers")
    told: dict[str, Any] = {
        "seed": RANDOM_SEED if sampling.seed is None else sampling.seed,
        **{name: held[name] if name in held else _OFF[name] for name in _SAME},
        "samplers": list(_DEFAULT_ORDER if samplers is None else samplers),
        "logit_bias": [{"token": token, "bias": amount} for token, amount in sampling.logit_bias.items()],
    }
    return told


_OFF: dict[str, Any] = {
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "min_keep": 0,
}
