"""The fields of llama-server and vLLM that every text dialect of OpenAI accepts.

Unsupported fields are listed as well, and refused by name. Ignoring them would mislead clients: a banned word could
still appear. ``docs/parameters.md`` has a row for each.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta

from tailrace.server.dialects.openai.sampler_fields import SamplerParameters

#: As wide as any of their counts.
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Label = Annotated[str, Meta(max_length=1024)]


class CompatFields(SamplerParameters, kw_only=True):
    """null equals absent everywhere."""

    # llama-server's: supported
    n_predict: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    n_cmpl: Annotated[int, Meta(ge=1, le=128)] | None = None
    n_probs: Annotated[int, Meta(ge=0, le=20)] | None = None
    cache_prompt: bool | None = None
    sse_ping_interval: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    # Accepted: always true here, or without effect on the reply
    id_slot: _Integer | None = None
    n_keep: _Integer | None = None
    n_discard: _Integer | None = None
    n_cache_reuse: _Integer | None = None
    backend_sampling: bool | None = None
    t_max_prompt_ms: _Integer | None = None
    # Refused, but for the value that switches them off
    verbose: bool | None = None
    n_indent: _Integer | None = None
    t_max_predict_ms: _Integer | None = None
    response_fields: list[str] | None = None
    lora: list[Any] | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    preserved_tokens: list[Any] | None = None
    grammar_lazy: bool | None = None
    grammar_triggers: list[Any] | None = None
    reasoning_budget_tokens: _Integer | None = None
    thinking_budget_tokens: _Integer | None = None
    reasoning_budget_message: str | None = None
    reasoning_control: bool | None = None
    reasoning_budget_start_tag: str | None = None
    reasoning_budget_end_tag: str | None = None
    reasoning_budget_end_tags: list[str] | None = None
    chat_format: Any = None
    chat_parser: str | None = None
    # vLLM's: supported
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    # Accepted
    request_id: _Label | None = None
    spaces_between_special_tokens: bool | None = None
    guided_decoding_backend: _Label | None = None
    # Refused, but for the value that switches them off
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: _Integer | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: _Integer | None = None
    allowed_token_ids: list[Any] | None = None
    bad_words: list[Any] | None = None
    add_special_tokens: bool | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    logits_processors: list[Any] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    repetition_detection: dict[str, Any] | None = None
    max_repetition_pattern_size: _Integer | None = None
    min_repetition_pattern_size: _Integer | None = None
    repetition_min_count: _Integer | None = None
    thinking_token_budget: _Integer | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def keepalive_seconds(self) -> float | None:
        """The silence before a stream's sign of life; None leaves it to the server."""
        interval = self.sse_ping_interval
        return None if interval is None else float(interval) if interval > 0 else math.inf


#: The supported values, and the reason why others aren't.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "verbose": ((False,), "there is no more to say of a reply; see /metrics and the server's log."),
    "n_indent": ((0,), "lines aren't indented here; use a grammar."),
    "t_max_predict_ms": ((-1, 0), "a reply isn't ended by the time; use 'max_tokens', or close the connection."),
    "response_fields": (([],), "replies have all their fields."),
    "lora": (([],), "adapters are not supported."),
    "post_sampling_probs": ((False,), "log probabilities are the model's own, before sampling."),
    "return_tokens": ((False,), "replies have no token ids; /tokenize has a text's."),
    "preserved_tokens": (([],), "the server decides which special tokens are shown."),
    "grammar_lazy": ((False,), "a grammar holds from the reply's beginning; use 'tools' for calls."),
    "grammar_triggers": (([],), "a grammar holds from the reply's beginning; use 'tools' for calls."),
    "reasoning_budget_tokens": ((-1, 0), "thoughts have no budget of their own; 'reasoning_effort': 'none' is none."),
    "thinking_budget_tokens": ((-1, 0), "thoughts have no budget of their own; 'reasoning_effort': 'none' is none."),
    "reasoning_budget_message": (("",), "thoughts have no budget of their own."),
    "reasoning_control": ((False,), "a thought can't be ended while it is written."),
    "reasoning_budget_start_tag": (("",), "thoughts have no budget of their own."),
    "reasoning_budget_end_tag": (("",), "thoughts have no budget of their own."),
    "reasoning_budget_end_tags": (([],), "thoughts have no budget of their own."),
    "chat_format": ((), "the server decides by the model's family how replies are read."),
    "chat_parser": (("",), "the server decides by the model's family how replies are read."),
    "use_beam_search": ((False,), "beam search is not supported; 'best_of' in text completions is near to it."),
    "length_penalty": ((1,), "it belongs to beam search, which is not supported."),
    "skip_special_tokens": ((True,), "special tokens are never part of a reply's text."),
    "truncate_prompt_tokens": ((), "prompts aren't cut; shorten it, or see 'truncation' of responses."),
    "prompt_logprobs": ((), "use 'echo' with 'logprobs' in text completions."),
    "allowed_token_ids": (([],), "use 'grammar' or 'guided_choice'."),
    "bad_words": (([],), "use 'logit_bias' with false for the tokens, or a grammar."),
    "mm_processor_kwargs": (({},), "the model reads text alone."),
    "media_io_kwargs": (({},), "the model reads text alone."),
    "logits_processors": (([],), "clients' code isn't run here."),
    "return_tokens_as_token_ids": ((False,), "tokens are told as text and bytes."),
    "return_token_ids": ((False,), "replies have no token ids; /tokenize has a text's."),
    "cache_salt": ((), "prefixes of prompts are shared; 'cache_prompt': false reads one anew."),
    "kv_transfer_params": (({},), "caches aren't transferred between servers."),
    "vllm_xargs": (({},), "there are no custom extensions here."),
    "repetition_detection": (({},), "use 'repeat_penalty' or 'frequency_penalty'."),
    "max_repetition_pattern_size": ((0,), "use 'repeat_penalty' or 'frequency_penalty'."),
    "min_repetition_pattern_size": ((0,), "use 'repeat_penalty' or 'frequency_penalty'."),
    "repetition_min_count": ((0,), "use 'repeat_penalty' or 'frequency_penalty'."),
    "thinking_token_budget": ((), "thoughts have no budget of their own; 'reasoning_effort': 'none' is none."),
    "guided_whitespace_pattern": ((), "JSON is written on one line; see 'x-guidance' in docs/parameters.md."),
}
SUPPORTED = {name: values for name, (values, _) in _REFUSED.items()}
WHY = {name: why for name, (_, why) in _REFUSED.items()}
