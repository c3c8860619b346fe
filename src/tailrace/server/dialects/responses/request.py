"""The fields of a request, with their ranges, and the values that aren't supported."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.openai import llama_vllm_fields
from tailrace.server.dialects.openai.common_fields import CommonFields, Limit, Metadata
from tailrace.server.dialects.openai.generation_params import refuse
from tailrace.server.thinking_fields import ThinkingSwitch

#: The values of ``include``. Those about parts that this server never makes have no effect.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class TextFormat(msgspec.Struct):
    """The reply's format. Unlike in chat completions, the schema is beside the type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """The options of the reply's text."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(msgspec.Struct):
    """The model's reasoning effort, and the form of reasoning in the reply."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None

    @property
    def summary_kind(self) -> str | None:
        """The requested kind of summary, or None. Each kind has the whole reasoning."""
        given = self.summary or self.generate_summary
        return None if given == "none" else given


class StreamOptions(msgspec.Struct):
    """Options of the stream."""

    include_obfuscation: bool | None = None


class ConversationReference(msgspec.Struct):
    """The id of a stored conversation."""

    id: str


class ResponsesRequest(CommonFields, kw_only=True):
    """The body of ``POST /v1/responses``; null equals absent everywhere."""

    input: str | list[dict[str, Any]] | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: Metadata | None = None
    # The reply
    max_output_tokens: Limit | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Tools
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required", "any"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    # Labels of the client
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    # Features of OpenAI's own service
    prompt: Any = None
    context_management: list[Any] | None = None
    moderation: Any = None
    background_options: dict[str, Any] | None = None
    access_programs: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | bool | None = None
    reasoning_effort: str | None = None
    # vLLM's: refused
    enable_response_messages: bool | None = None
    previous_input_messages: list[Any] | None = None

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the response belongs to."""
        named = self.conversation
        return named.id if isinstance(named, ConversationReference) else named

    @property
    def wants_logprobs(self) -> bool:
        """Whether the request asks for log probabilities."""
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)

    @property
    def wants_encrypted(self) -> bool:
        """Whether the client sends reasoning back with the next request."""
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def wants_summary(self) -> bool:
        """Whether reasoning is sent as a summary."""
        return self.reasoning is not None and self.reasoning.summary_kind is not None


#: The supported values of fields that aren't fully supported.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "prompt": (),
    "context_management": ([],),
    "moderation": (),
    "background_options": ({}, {"completion_window": "soonest"}),
    "access_programs": ({}, {"cyber": "standard"}),
    "enable_response_messages": (False,),
    "previous_input_messages": ([],),
    "n_cmpl": (1,),
    "n_probs": (0,),
    "add_special_tokens": (False,),
}
_WHY = {
    "prompt": "prompt templates are not kept here; send 'instructions' and 'input'.",
    "context_management": "compaction is not supported.",
    "moderation": "moderation is not supported.",
    "background_options": "only the completion window 'soonest' is supported.",
    "access_programs": "there are no access programs here.",
    "enable_response_messages": "a response has its items alone.",
    "previous_input_messages": "use 'input' or 'previous_response_id'.",
    "n_cmpl": "a response is one reply.",
    "n_probs": "use 'top_logprobs'.",
    "add_special_tokens": "the model's template writes the special tokens.",
}

decoder = msgspec.json.Decoder(ResponsesRequest)


def check(request: ResponsesRequest) -> None:
    """Raise InvalidRequest for the first value that is unsupported or conflicts with another field."""
    refuse(request, _SUPPORTED, _WHY)
    refuse(request, llama_vllm_fields.SUPPORTED, llama_vllm_fields.WHY)
    if request.conversation_id is not None and request.previous_response_id is not None:
        raise InvalidRequest(
            "'conversation' has what came before already; leave out 'previous_response_id'.", param="conversation"
        )
    if request.input is None and request.previous_response_id is None and request.conversation_id is None:
        raise InvalidRequest("'input' is missing.", param="input")
    if request.background and request.store is False:
        raise _unsupported("background", "a response in the background is found by its id alone; it needs 'store'.")


def _unsupported(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}': {why}", param=param, code="unsupported_value")
