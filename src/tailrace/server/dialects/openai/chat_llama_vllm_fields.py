"""The fields of llama-server and vLLM that chat completions alone have, and their translation.

As in ``llama_vllm_fields``, unsupported values are refused by name."""

from __future__ import annotations

from typing import Any, Literal

from tailrace.chat.thinking_kwargs import ThinkingOptions
from tailrace.errors import InvalidRequest
from tailrace.server.dialects.openai import llama_vllm_fields
from tailrace.server.dialects.openai.generation_params import SharedParameters, refuse
from tailrace.server.served_model import ServedModel
from tailrace.server.thinking_fields import Budget, ReasoningSwitch, ThinkingSwitch, merge_thinking


class ChatExtensions(SharedParameters, kw_only=True):
    """null equals absent everywhere."""

    # OpenAI's own: a hint, as the effort is
    verbosity: Literal["low", "medium", "high"] | None = None
    # OpenAI's own; without effect, because the prefix cache matches tokens and nothing is moderated
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    moderation: Any = None
    # Supported: the thinking switches of several servers
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | bool | None = None
    reasoning: ReasoningSwitch | None = None
    thinking_budget: Budget | None = None
    reasoning_budget: Budget | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Supported: where the prompt ends
    add_generation_prompt: bool | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None
    # Honoured
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    include_reasoning: bool | None = None
    documents: list[dict[str, Any]] | None = None
    # Refused, but for the value that switches them off
    chat_template: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    generation_prompt: str | None = None
    parse_tool_calls: bool | None = None


_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "moderation": (),
    "reasoning_format": ("none", "auto", "deepseek"),
    "add_special_tokens": (False,),
    "chat_template": (),
    "echo": (False,),
    "best_of": (1,),
    "generation_prompt": ("",),
    "parse_tool_calls": (True,),
}
_WHY = {
    "moderation": "moderation is not supported.",
    "reasoning_format": "a thought comes apart ('auto', 'deepseek') or within the text ('none'), not both.",
    "add_special_tokens": "the model's template writes the special tokens.",
    "chat_template": "requests don't bring templates; the server has the model's.",
    "echo": "messages aren't repeated in the reply.",
    "best_of": "use text completions.",
    "generation_prompt": "the model's template begins the reply.",
    "parse_tool_calls": "calls are told apart from text; leave out 'tools' where they aren't wanted.",
}


def check(request: ChatExtensions) -> None:
    """Raise InvalidRequest for the first unsupported value."""
    request.check_stream_options()
    refuse(request, llama_vllm_fields.SUPPORTED, llama_vllm_fields.WHY)
    refuse(request, _SUPPORTED, _WHY)


def template_variables(request: ChatExtensions, model: ServedModel) -> dict[str, Any]:
    """The template's other variables. Raises InvalidRequest for documents that the template doesn't use."""
    variables: dict[str, Any] = {}
    if request.verbosity is not None:
        variables["verbosity"] = request.verbosity
    if request.documents:
        if "documents" not in model.template.source:
            why = "'documents': this model's template has no place for documents; put them into a message."
            raise InvalidRequest(why, param="documents", code="unsupported_value")
        variables["documents"] = request.documents
    return variables


def thinking_options(request: ChatExtensions) -> ThinkingOptions:
    """Whether and how much the model shall think."""
    budgets = (
        request.thinking_budget,
        request.reasoning_budget,
        request.reasoning_budget_tokens,
        request.thinking_budget_tokens,
    )
    return merge_thinking(
        enable=request.enable_thinking,
        thinking=request.thinking,
        reasoning=request.reasoning,
        effort=request.reasoning_effort,
        budget=next((budget for budget in budgets if budget is not None), None),
    )


def hides_reasoning(request: ChatExtensions) -> bool:
    """Whether reasoning is left out of the reply."""
    return request.include_reasoning is False or bool(request.reasoning is not None and request.reasoning.exclude)


def wants_inline_reasoning(request: ChatExtensions, *, default: bool) -> bool:
    """Whether reasoning is part of the text, between tags."""
    return default if request.reasoning_format is None else request.reasoning_format == "none"
