"""Translates llama-server's requests into generations. A new parameter gets its line in ``prepare``."""

from __future__ import annotations

from typing import Any

from tailrace.errors import InvalidRequest
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.prompt_text import PromptText
from tailrace.server.dialects.llama_server.piecewise_prompt import PieceTokenizer
from tailrace.server.dialects.llama_server.request_fields import NativeFields
from tailrace.server.dialects.llama_server.sampling_params import sampling_object, sampling_of
from tailrace.server.dialects.openai.grammar import GrammarParameters, grammar
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.stop_fields import stop_strings
from tailrace.server.tracked_choice import TrackingOptions

#: Replies of one request: prompts times n.
_MAX_CHOICES = 128
_ANY_OBJECT = {"type": "object"}


async def prepare(
    request: NativeFields,
    prompts: list[str | list[int]],
    model: ServedModel,
    tokens: PieceTokenizer,
    *,
    prompt_param: str,
) -> GenerationRequest:
    """Translate the request into a generation. Raises RequestError."""
    check_fields(request)
    choices = request.n_cmpl or request.n or 1
    if len(prompts) * choices > _MAX_CHOICES:
        raise InvalidRequest(f"One request may have at most {_MAX_CHOICES} replies (prompts × n).", param=prompt_param)
    form, form_field = _form(request)
    limit = limit_of(request)
    # A grammar ends a reply with an end token, so those can't be banned beside one.
    banned = model.info.end_tokens if request.ignore_eos and form is None else ()
    probabilities = request.n_probs if request.n_probs is not None else request.logprobs
    return GenerationRequest(
        prompts=[prompt if isinstance(prompt, list) else PromptText(prompt) for prompt in prompts],
        prompt_param=prompt_param,
        choices=choices,
        params=GenerationParams(
            max_tokens=limit or None,
            sampling=await sampling_of(request, tokens, banned),
            ignore_eos=bool(request.ignore_eos),
            priority=request.priority or 0,
            reuse_prefix=request.cache_prompt is not False,
            logprobs=probabilities or None,
            logprobs_after_sampling=bool(request.post_sampling_probs),
            grammar=form,
        ),
        stops=stop_strings(request.stop, "stop"),
        grammar_param=form_field,
        tracking=TrackingOptions(
            tokens=bool(request.stream or request.return_tokens or probabilities),
            progress=bool(request.stream and request.return_progress),
            timings=bool(request.stream and request.timings_per_token),
            silent=limit == 0,
            indent=request.n_indent or 0,
            milliseconds=max(0, request.t_max_predict_ms or 0),
        ),
    )


def limit_of(request: NativeFields) -> int | None:
    """The reply's tokens, at most: None is without a limit, 0 computes the prompt alone."""
    for given in (request.n_predict, request.max_completion_tokens, request.max_tokens):
        if given is not None:
            return None if given < 0 else given
    return None


def check_fields(request: NativeFields) -> None:
    """Raise InvalidRequest for what is wrong whatever the model is."""
    stop_strings(request.stop, "stop")
    _form(request)
    refused: dict[str, tuple[bool, str]] = {
        "lora": (bool(request.lora), "no LoRA adapter is loaded; leave it out or send []."),
        "grammar_lazy": (bool(request.grammar_lazy), "a grammar holds for the whole reply."),
        "grammar_triggers": (bool(request.grammar_triggers), "a grammar holds for the whole reply."),
        "reasoning_budget_tokens": (
            request.reasoning_budget_tokens not in (None, -1),
            "thoughts have no limit of their own.",
        ),
    }
    chat = "it belongs to chats; see /v1/chat/completions."
    refused |= {
        "reasoning_control": (bool(request.reasoning_control), "a thought can't be ended while it is written."),
        "generation_prompt": (bool(request.generation_prompt), "put it at the prompt's end."),
        "continue_final_message": (bool(request.continue_final_message), chat),
        "echo": (bool(request.echo), chat),
        "image_data": (bool(request.image_data), "this model reads text alone."),
    }
    for name, (applies, why) in refused.items():
        if applies:
            raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")


def _form(request: NativeFields) -> tuple[Grammar | None, str]:
    schema = request.json_schema
    return grammar(
        GrammarParameters(
            grammar=request.grammar or None, json_schema=_ANY_OBJECT if schema is not None and not schema else schema
        )
    )


def settings_object(request: NativeFields, generation_request: GenerationRequest) -> dict[str, Any]:
    """``generation_settings``."""
    limit = limit_of(request)
    tracking = generation_request.tracking or TrackingOptions()
    form = generation_request.params.grammar
    return {
        **sampling_object(generation_request.params.sampling),
        "stop": list(generation_request.stops),
        **_limits(-1 if limit is None else limit),
        "ignore_eos": generation_request.params.ignore_eos,
        "stream": bool(request.stream),
        "n_probs": generation_request.params.logprobs or 0,
        "grammar": form.text if form is not None else "",
        "timings_per_token": bool(request.timings_per_token),
        "post_sampling_probs": bool(request.post_sampling_probs),
        "n_indent": tracking.indent,
        "t_max_predict_ms": tracking.milliseconds,
    }


def default_settings() -> dict[str, Any]:
    """The settings of a request without parameters."""
    fields = sampling_object(Sampling())
    del fields["logit_bias"]
    return {
        **fields,
        **_limits(-1),
        "ignore_eos": False,
        "stream": True,
        "n_probs": 0,
        "timings_per_token": False,
        "post_sampling_probs": False,
    }


def _limits(limit: int) -> dict[str, Any]:
    return {
        "max_tokens": limit,
        "n_predict": limit,
        "n_keep": 0,
        "n_discard": 0,
        "lora": [],
        "backend_sampling": False,
        "reasoning_format": "none",
        "grammar_lazy": False,
    }
