"""The fields of llama-server's ``/completion`` and ``/infill``, with their ranges.

As in llama-server, out-of-range values of the filters are clamped, and ``model`` is for a router in front."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.server.dialects.openai.common_fields import Repeat, TokenId
from tailrace.server.dialects.openai.generation_params import StreamOptions
from tailrace.server.dialects.openai.grammar import Schema
from tailrace.server.dialects.openai.sampler_fields import SamplerParameters
from tailrace.server.stop_fields import Stops

#: PieceTokenizer; -1 is without a limit.
_Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
_Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Milliseconds = Annotated[int, Meta(ge=-1, le=2**53)]
_Penalty = Annotated[float, Meta(ge=-100, le=100)]
_Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
#: A prompt in pieces, which are joined as tokens.
Pieces = Annotated[list[TokenId | str], Meta(max_length=16_777_216)]
#: ``false`` bans the token.
Bias = Annotated[float, Meta(ge=-1e6, le=1e6)] | Literal[False]
MAX_EXTRAS = 1024
MAX_BIASES = 65_536


class PromptObject(msgspec.Struct, frozen=True):
    """A prompt as an object: ``multimodal_data`` beside the text needs a model that sees or hears."""

    prompt_string: str | Pieces
    multimodal_data: Any = None


#: A list with a number in it is one prompt in pieces, any other one of prompts.
Prompts = (
    str
    | PromptObject
    | Annotated[list[TokenId | str | PromptObject | Pieces], Meta(min_length=1, max_length=16_777_216)]
)


class AdapterScale(msgspec.Struct, frozen=True):
    """The scale of a LoRA adapter: there are no adapters here."""

    id: int
    scale: float


class NativeFields(SamplerParameters, kw_only=True):
    """The fields of both requests; null equals absent everywhere."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # How long
    n_predict: _Limit | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    n_indent: _Size | None = None
    t_max_predict_ms: _Milliseconds | None = None
    t_max_prompt_ms: _Milliseconds | None = None
    stop: Stops | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    n_cmpl: Annotated[int, Meta(ge=1, le=128)] | None = None
    # Contents of the reply
    response_fields: Annotated[list[str], Meta(max_length=256)] | None = None
    return_tokens: bool | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    n_probs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    post_sampling_probs: bool | None = None
    verbose: bool | None = None
    sse_ping_interval: _Limit | None = None
    # Structured output
    grammar: str | None = None
    json_schema: Schema | None = None
    grammar_lazy: bool | None = None
    grammar_triggers: list[Any] | None = None
    preserved_tokens: list[str] | None = None
    # How it is chosen
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: _Number | None = None
    top_k: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    top_p: _Number | None = None
    min_p: _Number | None = None
    typical_p: _Number | None = None
    xtc_probability: _Number | None = None
    xtc_threshold: _Number | None = None
    adaptive_target: _Number | None = None
    repeat_last_n: _Limit | None = None
    repeat_penalty: Repeat | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: (
        Annotated[list[tuple[TokenId | str, Bias]], Meta(max_length=MAX_BIASES)]
        | Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)]
        | None
    ) = None
    backend_sampling: bool | None = None
    # Where and how it is computed
    id_slot: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    cache_prompt: bool | None = None
    n_cache_reuse: _Size | None = None
    n_keep: _Limit | None = None
    n_discard: _Size | None = None
    lora: list[AdapterScale] | None = None
    reasoning_format: str | None = None
    reasoning_budget_tokens: _Limit | None = None
    # Internal fields of llama-server's chat routes: without effect on a completion
    chat_format: Any = None
    chat_parser: str | None = None
    parse_tool_calls: bool | None = None
    grammar_type: str | None = None
    message_delimiters: list[Any] | None = None
    reasoning_budget_start_tag: str | None = None
    reasoning_budget_end_tag: str | None = None
    reasoning_budget_end_tags: list[str] | None = None
    reasoning_budget_message: str | None = None
    # Refused, but for the value that switches them off
    reasoning_control: bool | None = None
    generation_prompt: str | None = None
    continue_final_message: Any = None
    echo: bool | None = None
    image_data: list[Any] | None = None
    # An extension, as in OpenAI's dialects
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None


class CompletionRequest(NativeFields, kw_only=True):
    """The body of ``/completion``."""

    prompt: Prompts


class ExtraContext(msgspec.Struct, frozen=True):
    """A part of another file."""

    text: str
    filename: str = "tmp"


class InfillRequest(NativeFields, kw_only=True):
    """The body of ``/infill``. The reply fills the gap between ``input_prefix`` and ``input_suffix``, and continues
    ``prompt``.
    """

    input_prefix: str | Pieces
    input_suffix: str | Pieces
    input_extra: Annotated[list[ExtraContext], Meta(max_length=MAX_EXTRAS)] | None = None
    prompt: str | None = None


completion_decoder = msgspec.json.Decoder(CompletionRequest)
infill_decoder = msgspec.json.Decoder(InfillRequest)
