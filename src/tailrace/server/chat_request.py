"""A conversation with its tools, as every dialect has it, to a generation request.

A dialect translates its own request into the template's messages (see ``Message``) and ``Function``s, calls
``chat_request`` with the generation's parameters, and adds the rest:
``msgspec.structs.replace(chat_request(...), stops=...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from tailrace.chat import continued_message, thinking_kwargs, tool_prompting
from tailrace.chat.families.base import Family
from tailrace.chat.messages import Message, joined_text
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_grammar import GrammarContext, format_or_calls, lazy_calls, required_calls
from tailrace.chat.template import ChatTemplate
from tailrace.chat.thinking_kwargs import ThinkingOptions
from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.generation_params import GenerationParams, Grammar
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

#: Whether the model calls functions: never, if it decides so, or at least once.
ToolChoice = Literal["none", "auto", "required"]
#: Whether the last message is continued, or which of its fields is; True is the content, or a thought without one.
Continued = bool | Literal["content", "reasoning_content"]

_MODEL_DECIDES = ThinkingOptions()
_DEFAULTS = GenerationParams()


class FieldNames(msgspec.Struct, frozen=True, kw_only=True):
    """The dialect's names of the fields at fault. ``messages`` may have the place of each message."""

    prompt: str = "messages"
    messages: Sequence[str] | None = None  #: one a message; None is ``messages[0]``, ``messages[1]``, ...
    tools: str = "tools"
    tool_choice: str = "tool_choice"
    form: str = "response_format"


_OPENAI = FieldNames()


def chat_request(
    model: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Function] = (),
    tool_choice: ToolChoice = "auto",
    only: str | None = None,
    parallel: bool = True,
    form: Grammar | None = None,
    params: GenerationParams = _DEFAULTS,
    thinking: ThinkingOptions = _MODEL_DECIDES,
    variables: dict[str, Any] | None = None,
    opening: bool = True,
    continues: Continued = False,
    inline_reasoning: bool = False,
    fields: FieldNames = _OPENAI,
) -> GenerationRequest:
    """The generation request of a conversation: prompt, grammar, and the functions that the reply's parser looks for.

    ``messages`` are the template's: ``role`` (system, developer, user, assistant, tool), ``content`` (a string), and
    where they apply ``name``, ``tool_call_id``, ``reasoning_content`` and ``tool_calls`` (each ``{"id": str | None,
    "type": "function", "function": {"name": str, "arguments": dict | str}}``, see ``read_arguments``). ``only`` is the
    one function that has to be called; without ``parallel`` the reply ends after the first call. ``form`` is what a
    reply without a call has to look like; the request's ``params`` get the grammar made of it and of the tools.
    ``thinking`` goes to the template under the names that templates know, as do ``variables``, which win. ``content``
    may also be a list of text parts.

    Without ``opening`` the prompt ends behind the last message. ``continues`` ends it within the last message, whose
    text is the beginning of the reply.

    Raises InvalidRequest, which names the field by ``fields``.
    """
    must_call = tool_choice == "required" or only is not None
    offered = _offered(tools, tool_choice, only, fields)
    conversation = _adapted(model, messages, offered)
    kwargs = {**thinking_kwargs.template_kwargs(model.template, thinking), **(variables or {})}
    render = _Renderer(model.template, [function.as_openai() for function in offered] or None, kwargs)
    if continues:
        if not messages or messages[-1].get("tool_calls"):
            why = "a message with tool calls is whole" if messages else "there is no message"
            raise InvalidRequest(f"'{fields.prompt}': {why}, so that it can't be continued.", param=fields.prompt)
        prompt = _continued(conversation, continues, model.family, render, fields)
        if must_call:
            where = fields.tool_choice
            raise InvalidRequest(f"'{where}' can't be held to in a reply that the last message has begun.", param=where)
    else:
        prompt = render(conversation, opening, None)
        if opening and _wants_no_thought(thinking, variables or {}):
            prompt = model.without_thought(prompt)
    several = parallel and only is None
    if must_call:
        callable_ = [function for function in offered if only in (None, function.name)]
        grammar: Grammar | None = required_calls(_context(model, prompt.text), callable_, several=several)
    elif form is not None:
        grammar = format_or_calls(_context(model, prompt.text), form, offered, several=parallel)
    elif offered:
        # A continued reply may be within a thought or a call: the lazy grammar first follows its existing text.
        grammar = lazy_calls(_context(model, prompt.head.text), offered, several=parallel, reply_start=prompt.reply)
    else:
        grammar = None
    return GenerationRequest(
        prompts=[prompt],
        prompt_param=fields.prompt,
        params=msgspec.structs.replace(params, grammar=grammar),
        grammar_param=fields.tools if must_call or (offered and form is None) else fields.form,
        chat=True,
        tools=offered,
        max_tool_calls=2**31 if parallel and only is None else 1,
        inline_reasoning=inline_reasoning,
    )


def _offered(
    tools: Sequence[Function], tool_choice: ToolChoice, only: str | None, fields: FieldNames
) -> tuple[Function, ...]:
    """The functions that the model may call. Raises InvalidRequest for a choice that they don't allow."""
    offered = tuple(tools) if tool_choice != "none" else ()
    if only is not None and all(function.name != only for function in offered):
        raise InvalidRequest(
            f"'{fields.tool_choice}' names '{only}', which is not among '{fields.tools}'.", param=fields.tool_choice
        )
    if tool_choice == "required" and not offered:
        raise InvalidRequest(f"'{fields.tool_choice}' needs '{fields.tools}'.", param=fields.tool_choice)
    for function in offered:
        if (function.parameters or {}).get("type", "object") != "object":
            message = f"'{fields.tools}': the parameters of '{function.name}' must be an object."
            raise InvalidRequest(message, param=fields.tools)
    return offered


def _adapted(model: ServedModel, messages: Sequence[Message], offered: tuple[Function, ...]) -> list[Message]:
    """The messages as the model's template can render them: with tools as text where it has none for them."""
    template, family = model.template, model.family
    adapted = list(messages) if model.overrides is None else model.overrides.begin(messages)
    if not (template.supports_tools and template.supports_calls):
        adapted = tool_prompting.calls_to_text(_with_joined_text(adapted))
    if offered and not template.supports_tools:
        adapted = tool_prompting.add_functions(adapted, offered)
    if family.call_id is not None:
        adapted = _with_call_ids(adapted, family.call_id)
    return adapted


class _Renderer:
    """Renders a conversation's messages with the model's template."""

    def __init__(self, template: ChatTemplate, tools: list[Any] | None, kwargs: dict[str, Any]) -> None:
        self._template = template
        # A template without tools may fail on them: the messages already describe the functions.
        self._tools = tools if template.supports_tools else None
        self._kwargs = kwargs

    def __call__(self, messages: list[Message], opening: bool, field: str | None) -> RenderedPrompt:
        """The prompt. ``opening``: a reply begins at its end; ``field`` of the last message is continued. Raises
        InvalidRequest.
        """
        try:
            return self._rendered(messages, opening, field)
        except InvalidRequest as refusal:
            if self._template.defect is not None or not any(_is_about_calls(message) for message in messages):
                raise
            # Mistral's templates want each call to have its result: a shortened conversation is rendered as text.
            try:
                text = tool_prompting.calls_to_alternating_text(_with_joined_text(messages))
                return self._rendered(text, opening, field)
            except InvalidRequest:
                raise refusal from None

    def _rendered(self, messages: list[Message], opening: bool, field: str | None) -> RenderedPrompt:
        return self._template.render(messages, self._tools, self._kwargs, opening=opening, continued=field)


def _with_joined_text(messages: Sequence[Message]) -> list[Message]:
    return [{**message, "content": joined_text(message["content"])} for message in messages]


def _context(model: ServedModel, prompt: str) -> GrammarContext:
    return GrammarContext(model.family, model.template.source, model.control_tokens, prompt)


def _with_call_ids(messages: list[Message], call_id: Callable[[str], str]) -> list[Message]:
    """The messages with every call's id in the form that the template wants."""
    changed: list[Message] = []
    for message in messages:
        new = dict(message)
        if isinstance(new.get("tool_call_id"), str):
            new["tool_call_id"] = call_id(new["tool_call_id"])
        if new.get("tool_calls"):
            new["tool_calls"] = [{**call, "id": call_id(call.get("id") or "")} for call in new["tool_calls"]]
        changed.append(new)
    return changed


def _is_about_calls(message: Message) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def _wants_no_thought(thinking: ThinkingOptions, variables: dict[str, Any]) -> bool:
    """Whether the model shall not think: ``variables`` of the client's own win."""
    said = (variables.get("enable_thinking"), variables.get("thinking"), thinking.on)
    return next((value for value in said if isinstance(value, bool)), True) is False


def _continued(
    messages: list[Message],
    continues: Continued,
    family: Family,
    render: _Renderer,
    fields: FieldNames,
) -> RenderedPrompt:
    """The prompt that ends within the last message. Where the template can't show it so, its text stands behind the
    beginning of a reply.
    """
    last = messages[-1]
    field = continues if isinstance(continues, str) else continued_message.continued_field(last)
    if not last.get(field) and field != "content":
        message = f"'{fields.prompt}': the last message has no '{field}' that could be continued."
        raise InvalidRequest(message, param=fields.prompt)
    try:
        return render(messages, False, field)
    except InvalidRequest:
        if last["role"] != "assistant" or field != "content":
            raise
        opened = render(messages[:-1], True, None)
    # The continued text is part of the reply: a thought that the template has opened is closed.
    prompt = opened.append_markup(family.text_prefix_after(opened.text))
    return prompt.append_literal(joined_text(last["content"])).continued_at(len(prompt.text))
