"""Translates OpenAI's fields into the engine's ``GenerationParams``. A new parameter gets its line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.server.dialects.openai.common_fields import CommonFields, Limit, LogitBias
from tailrace.server.dialects.openai.grammar import GrammarParameters
from tailrace.server.dialects.openai.llama_vllm_fields import CompatFields
from tailrace.server.dialects.openai.sampler_fields import sampler_values
from tailrace.server.stop_fields import stop_strings

#: The bias of a banned token: below any logit.
_BAN_BIAS = -1e9

_DEFAULTS = Sampling()
#: OpenAI's schema has it: the largest 64-bit integer as JavaScript writes it.
_MAX_SEED = 9223372036854776000


class StreamOptions(msgspec.Struct, frozen=True):
    """``include_usage`` adds a chunk with the usage before the end. Obfuscation is accepted and not applied."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SharedParameters(GrammarParameters, kw_only=True):
    """The fields that chat and text completions share; null equals absent everywhere."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Limit | None = None
    user: str | None = None

    def check_stream_options(self) -> None:
        """Raise InvalidRequest for vLLM's option that would have usage in every chunk: relays read it as the end."""
        if self.stream_options is not None and self.stream_options.continuous_usage_stats:
            where = "stream_options.continuous_usage_stats"
            why = "usage comes once, at the end ('include_usage'); 'timings_per_token' has figures in each chunk."
            raise InvalidRequest(f"'{where}': {why}", param=where, code="unsupported_value")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def generation_params(parameters: CommonFields, max_tokens: int | None) -> GenerationParams:
    """The engine's parameters that all of OpenAI's text dialects offer. Raises InvalidRequest."""
    return GenerationParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens_of(parameters, max_tokens),
        sampling=sampling(parameters),
        stop_tokens=tuple(parameters.stop_token_ids or ()),
        ignore_eos=bool(parameters.ignore_eos),
        priority=parameters.priority or 0,
        reuse_prefix=parameters.cache_prompt is not False,
    )


def sampling(parameters: CommonFields) -> Sampling:
    """The engine's sampling for these parameters, with the server's defaults for absent ones."""
    repeat = _first_given(parameters.repeat_penalty, parameters.repetition_penalty)
    return Sampling(
        **sampler_values(parameters),
        temperature=_first_given(parameters.temperature, _DEFAULTS.temperature),
        top_k=max(0, _first_given(parameters.top_k, _DEFAULTS.top_k)),
        top_p=_first_given(parameters.top_p, _DEFAULTS.top_p),
        min_p=_first_given(parameters.min_p, _DEFAULTS.min_p),
        repeat_penalty=_first_given(repeat, _DEFAULTS.repeat_penalty),
        repeat_last_n=_first_given(parameters.repeat_last_n, parameters.penalty_last_n, _DEFAULTS.repeat_last_n),
        frequency_penalty=_first_given(parameters.frequency_penalty, 0.0),
        presence_penalty=_first_given(parameters.presence_penalty, 0.0),
        logit_bias=_bias(parameters.logit_bias),
        seed=_seed(parameters.seed),
    )


def _seed(seed: int | None) -> int | None:
    """numpy's generators take non-negative seeds; OpenAI's are signed. llama-server's and vLLM's -1 is any."""
    if seed is None or seed == -1:
        return None
    if abs(seed) > _MAX_SEED:
        raise InvalidRequest(f"'seed' must be between -{_MAX_SEED} and {_MAX_SEED}.", param="seed")
    return seed % 2**64


def stops(parameters: CommonFields) -> tuple[str, ...]:
    """The stop strings. Raises InvalidRequest."""
    return stop_strings(parameters.stop, "stop")


def limit(parameters: msgspec.Struct, *names: str, default: int | None = None) -> int | None:
    """The reply's token limit, from the first given field; None means no limit (-1 in a request).

    Raises InvalidRequest for 0."""
    for name in names:
        given: int | None = getattr(parameters, name)
        if given == 0:
            raise InvalidRequest(f"'{name}' must be at least 1, or -1 for no limit.", param=name)
        if given is not None:
            return None if given < 0 else given
    return default


def min_tokens_of(parameters: CompatFields, max_tokens: int | None) -> int:
    """The reply's minimum length in tokens. Raises InvalidRequest for one above ``max_tokens``."""
    given = parameters.min_tokens or 0
    if max_tokens is not None and given > max_tokens:
        raise InvalidRequest(f"'min_tokens' must be at most the reply's limit, {max_tokens}.", param="min_tokens")
    return given


def _bias(given: LogitBias | None) -> dict[int, float]:
    """Raises InvalidRequest."""
    if given is None:
        return {}
    pairs = given.items() if isinstance(given, dict) else given
    if any(value is True for _, value in pairs):
        raise InvalidRequest("'logit_bias': a token's bias is a number, or false to ban it.", param="logit_bias")
    return {token: _BAN_BIAS if value is False else float(value) for token, value in pairs}


def refuse(parameters: msgspec.Struct, supported: Mapping[str, tuple[Any, ...]], why: Mapping[str, str]) -> None:
    """Raise InvalidRequest for the first field with an unsupported value. None is always supported."""
    for name, values in supported.items():
        value = getattr(parameters, name)
        if value is not None and value not in values:
            raise InvalidRequest(f"'{name}': {why[name]}", param=name, code="unsupported_value")


def _first_given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
