"""Translates a request into a generation. A new parameter gets its line in ``prepare``."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.generation_params import Grammar
from tailrace.server.chat_request import FieldNames, chat_request
from tailrace.server.dialects.openai.generation_params import generation_params, limit, stops
from tailrace.server.dialects.openai.grammar import GrammarParameters, NamedSchema, ResponseFormat, grammar
from tailrace.server.dialects.responses.chat_messages import ChatMessages
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.timing_fields import tracking
from tailrace.server.dialects.responses.tools import Toolset
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.thinking_fields import ReasoningSwitch, merge_thinking

#: Priority of a response in the background that has none of its own: behind the default of 0.
_BACKGROUND_PRIORITY = 1


def prepare(
    request: ResponsesRequest, conversation: ChatMessages, tools: Toolset, model: ServedModel
) -> GenerationRequest:
    """Translate the request into a generation. Raises InvalidRequest."""
    reasoning = ReasoningSwitch(effort=request.reasoning.effort) if request.reasoning is not None else None
    params = msgspec.structs.replace(
        generation_params(request, limit(request, "n_predict", "max_output_tokens")),
        logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
    )
    if request.background and request.priority is None:
        # No client waits for it: it leaves its place to the same caller's other requests.
        params = msgspec.structs.replace(params, priority=_BACKGROUND_PRIORITY)
    generation_request = chat_request(
        model,
        conversation.messages,
        tools=tools.functions,
        tool_choice=tools.choice,
        only=tools.only,
        parallel=request.parallel_tool_calls is not False,
        form=_form(request),
        params=params,
        thinking=merge_thinking(
            enable=request.enable_thinking,
            thinking=request.thinking,
            reasoning=reasoning,
            effort=request.reasoning_effort,
        ),
        variables={**_verbosity(request), **(request.chat_template_kwargs or {})},
        continues=conversation.continues,
        fields=FieldNames(prompt="input", messages=conversation.paths, form="text.format"),
    )
    return msgspec.structs.replace(
        generation_request,
        stops=stops(request),
        keep_stop=bool(request.include_stop_str_in_output),
        tracking=tracking(request),
    )


def _verbosity(request: ResponsesRequest) -> dict[str, Any]:
    """A hint that the model's template may use, as it may the effort."""
    verbosity = request.text.verbosity if request.text is not None else None
    return {} if verbosity is None else {"verbosity": verbosity}


def _form(request: ResponsesRequest) -> Grammar | None:
    """The grammar of ``text.format``."""
    given = request.text.format if request.text is not None else None
    if given is None:
        return None
    if given.type == "json_schema" and given.schema is None:
        raise InvalidRequest(
            "'text.format.schema' is missing: 'json_schema' needs a schema.", param="text.format.schema"
        )
    schema = (
        NamedSchema(name=given.name or "response", schema=given.schema, strict=given.strict)
        if given.type == "json_schema"
        else None
    )
    form = ResponseFormat(type=given.type, json_schema=schema)
    made, _ = grammar(GrammarParameters(response_format=form))
    return made
