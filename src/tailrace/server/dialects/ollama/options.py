"""Ollama's ``options``, with their ranges and their translation into ``Sampling``.

Absent options have this server's defaults, as in every dialect; Ollama's own differ a little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.generation_params import Sampling
from tailrace.server.dialects.openai.sampler_fields import LastTokens, SamplerParameters, Temperature, sampler_values
from tailrace.server.json_body import Truncated
from tailrace.server.stop_fields import Stops, stop_strings

_Probability = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Size = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

_DEFAULTS = Sampling()


class Options(SamplerParameters, kw_only=True):
    """The options of one request; null equals absent."""

    # Supported
    temperature: Temperature | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    top_p: _Probability | None = None
    min_p: _Probability | None = None
    seed: _Size | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=2**31 - 1)] | None = None
    stop: Stops | None = None
    repeat_last_n: LastTokens | None = None
    penalty_last_n: LastTokens | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    penalize_newline: bool | None = None
    # Supported where they are off
    tfs_z: float | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None
    # How Ollama loads a model: decided here when the server starts
    num_ctx: _Size | None = None
    num_keep: _Size | None = None
    num_batch: _Size | None = None
    num_gpu: _Size | None = None
    main_gpu: _Size | None = None
    num_thread: _Size | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    draft_num_predict: _Size | None = None


#: Options of which Ollama takes the integer part: Home Assistant and others send floats.
TRUNCATED = Truncated(
    "options", frozenset(name for name, kind in get_type_hints(Options).items() if int in get_args(kind))
)

#: Options with one supported value: the one that switches them off.
_OFF: dict[str, tuple[Any, str]] = {
    "tfs_z": (1, "tail-free sampling is not supported; leave it out or send 1."),
    "vocab_only": (False, "the model is loaded whole; leave it out or send false."),
    "embedding_only": (False, "the model is loaded whole; leave it out or send false."),
}


def with_defaults(options: Options | None, defaults: Mapping[str, Any]) -> Options:
    """The options, and those of ``defaults`` that they leave out."""
    given = {} if options is None else msgspec.structs.asdict(options)
    return msgspec.convert({**defaults, **{name: held for name, held in given.items() if held is not None}}, Options)


def refuse_unsupported(options: Options) -> None:
    """Raise InvalidRequest for the first option with an unsupported value."""
    for name, (off, why) in _OFF.items():
        value = getattr(options, name)
        if value is not None and value != off:
            raise InvalidRequest(f"'options.{name}': {why}", param=f"options.{name}", code="unsupported_value")


def sampling(options: Options) -> Sampling:
    """The engine's sampling for these options."""

    def given(name: str) -> Any:
        value = getattr(options, name)
        return getattr(_DEFAULTS, name) if value is None else value

    fields = sampler_values(options, "options.")
    if options.penalize_newline is not None:
        fields["penalize_nl"] = options.penalize_newline
    last = options.penalty_last_n if options.repeat_last_n is None else options.repeat_last_n
    return Sampling(
        **fields,
        temperature=given("temperature"),
        top_k=max(0, given("top_k")),
        top_p=given("top_p"),
        min_p=given("min_p"),
        repeat_penalty=given("repeat_penalty"),
        repeat_last_n=_DEFAULTS.repeat_last_n if last is None else last,
        frequency_penalty=given("frequency_penalty"),
        presence_penalty=given("presence_penalty"),
        # -1 is Ollama's word for a random one; the generator takes no negative seeds.
        seed=None if options.seed in (None, -1) else options.seed % 2**64,
    )


def max_tokens(options: Options) -> int | None:
    """The reply's limit; None for no other than the context. Ollama's -1, -2 and 0 mean no limit."""
    return options.num_predict if options.num_predict is not None and options.num_predict > 0 else None


def stops(options: Options) -> tuple[str, ...]:
    """The stop strings. Raises InvalidRequest."""
    return stop_strings(options.stop, "options.stop")
