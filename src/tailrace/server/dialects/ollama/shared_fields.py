"""The fields that Ollama's chat and generate share, and their translation. A new parameter gets its line in
``_params``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.messages import Message
from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.generation_params import GenerationParams, Grammar
from tailrace.prompt_text import PromptText
from tailrace.server.chat_request import FieldNames, chat_request
from tailrace.server.dialects.ollama import options as option
from tailrace.server.dialects.ollama.keep_alive import seconds_of
from tailrace.server.dialects.ollama.options import Options
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.thinking_fields import merge_thinking

_ANY_OBJECT = Grammar(kind="json_schema", text='{"type": "object"}')


class SharedFields(msgspec.Struct, kw_only=True):
    """The fields of both requests; null equals absent everywhere. Streaming is the default."""

    model: str | None = None
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["", "low", "medium", "high", "max"] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        """Whether the reply is streamed."""
        return self.stream is not False

    @property
    def is_empty(self) -> bool:
        """Whether the request only loads its model, or unloads it."""
        raise NotImplementedError


def check(fields: SharedFields) -> None:
    """Raise InvalidRequest for unsupported values."""
    seconds_of(fields.keep_alive)
    option.refuse_unsupported(fields.options or Options())
    if fields.debug_render_only:
        raise _unsupported("_debug_render_only", "leave it out.")
    if fields.top_logprobs and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")


def refuse_images(images: list[Any] | None, param: str) -> None:
    """Raise InvalidRequest for images."""
    if images:
        raise InvalidRequest(
            f"'{param}': this model reads text alone; leave the images out.", param=param, code="unsupported_value"
        )


def grammar(fields: SharedFields) -> Grammar | None:
    """The grammar of the reply."""
    if not fields.format and fields.format != {}:
        return None
    if fields.format == "json":
        return _ANY_OBJECT
    return Grammar(kind="json_schema", text=msgspec.json.encode(fields.format).decode())


def conversation(
    fields: SharedFields,
    model: ServedModel,
    messages: list[Message],
    tools: tuple[Function, ...] = (),
    *,
    prompt_param: str,
    inline_reasoning: bool,
) -> GenerationRequest:
    """The generation of a chat with these messages. Raises InvalidRequest."""
    generation_request = chat_request(
        model,
        messages,
        tools=tools,
        form=grammar(fields),
        params=_params(fields),
        thinking=merge_thinking(
            enable=fields.think if isinstance(fields.think, bool) else None,
            effort=fields.think if isinstance(fields.think, str) else fields.reasoning_effort,
        ),
        variables=fields.chat_template_kwargs,
        # As in Ollama, the reply continues a last message of the assistant.
        continues=bool(messages) and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"),
        inline_reasoning=inline_reasoning,
        fields=FieldNames(prompt=prompt_param, form="format"),
    )
    return _stopped(fields, generation_request)


def raw(fields: SharedFields, prompt: str, suffix: str | None = None) -> GenerationRequest:
    """The generation of a prompt without the chat template. Raises InvalidRequest."""
    generation_request = GenerationRequest(
        prompts=[PromptText(prompt)],
        prompt_param="prompt",
        params=msgspec.structs.replace(_params(fields), grammar=grammar(fields), suffix=suffix or None),
        grammar_param="format",
    )
    return _stopped(fields, generation_request)


def _params(fields: SharedFields) -> GenerationParams:
    options = fields.options or Options()
    return GenerationParams(
        max_tokens=option.max_tokens(options),
        sampling=option.sampling(options),
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
    )


def _stopped(fields: SharedFields, generation_request: GenerationRequest) -> GenerationRequest:
    return msgspec.structs.replace(generation_request, stops=option.stops(fields.options or Options()))


def _unsupported(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
