"""A conversation as every dialect has it, messages, tools and all, to the generation that it asks for.

A dialect translates its own request into the template's messages (see ``Message``) and ``Function``s, calls
``converse``, and fills in what is no business of the conversation: ``msgspec.structs.replace(converse(...),
max_tokens=..., sampling=..., stops=...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from tailrace.chat import untaught
from tailrace.chat.constrain import Setting, calls_only, form_or_calls, free_or_calls
from tailrace.chat.template import Message
from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.messages import Grammar
from tailrace.server.client import ServedModel
from tailrace.server.generate import GenerationRequest

#: Whether the model calls: never, as it likes, or at least once.
ToolChoice = Literal["none", "auto", "required"]


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What the dialect calls the fields at fault. ``messages`` may name each message's own place."""

    prompt: str = "messages"
    messages: Sequence[str] | None = None  #: one a message; None is ``messages[0]``, ``messages[1]``, ...
    tools: str = "tools"
    tool_choice: str = "tool_choice"
    form: str = "response_format"


_OPENAI = Fields()


def converse(
    model: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Function] = (),
    tool_choice: ToolChoice = "auto",
    only: str | None = None,
    parallel: bool = True,
    form: Grammar | None = None,
    thinking: bool | None = None,
    effort: str | None = None,
    variables: dict[str, Any] | None = None,
    inline_reasoning: bool = False,
    fields: Fields = _OPENAI,
) -> GenerationRequest:
    """What the conversation asks of the engine: prompt, grammar, and what the reply's parser has to look for.

    ``messages`` are the template's: ``role`` (system, developer, user, assistant, tool), ``content`` (a string), and
    where they apply ``name``, ``tool_call_id``, ``reasoning_content`` and ``tool_calls`` (each ``{"id": str | None,
    "type": "function", "function": {"name": str, "arguments": dict | str}}``, see ``read_arguments``). ``only`` is the
    one function that has to be called; without ``parallel`` the reply ends after the first call. ``form`` is what a
    reply without a call has to look like. ``thinking`` and ``effort`` ("none" is no thinking) go to the template under
    the names that templates know, as do ``variables``, which win.

    Raises InvalidRequest, which names the field by ``fields``.
    """
    offered = tuple(tools) if tool_choice != "none" else ()
    if only is not None and all(function.name != only for function in offered):
        raise InvalidRequest(
            f"'{fields.tool_choice}' names '{only}', which is not among '{fields.tools}'.", param=fields.tool_choice
        )
    must_call = tool_choice == "required" or only is not None
    if must_call and not offered:
        raise InvalidRequest(f"'{fields.tool_choice}' needs '{fields.tools}'.", param=fields.tool_choice)
    for function in offered:
        if (function.parameters or {}).get("type", "object") != "object":
            message = f"'{fields.tools}': the parameters of '{function.name}' must be an object."
            raise InvalidRequest(message, param=fields.tools)
    template, family = model.template, model.family
    told = list(messages)
    if not template.knows_tools:
        told = untaught.rewrite(told)
        if offered:
            told = untaught.tell(told, offered)
    if family.call_id is not None:
        told = _with_call_ids(told, family.call_id)
    prompt = template.render(
        told,
        [function.offered() for function in offered] or None,
        {**_thinking(thinking, effort), **(variables or {})},
    )
    setting = Setting(family, template.source, model.controls, prompt)
    grammar, param = form, fields.form
    if must_call:
        callable_ = [function for function in offered if only in (None, function.name)]
        grammar, param = calls_only(setting, callable_, several=parallel and only is None), fields.tools
    elif form is not None:
        grammar = form_or_calls(setting, form, offered, several=parallel)
    elif offered:
        grammar, param = free_or_calls(setting, offered, several=parallel), fields.tools
    return GenerationRequest(
        prompts=[prompt],
        prompt_param=fields.prompt,
        grammar=grammar,
        grammar_param=param,
        chat=True,
        tools=offered,
        max_tool_calls=2**31 if parallel and only is None else 1,
        inline_reasoning=inline_reasoning,
    )


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


def _thinking(thinking: bool | None, effort: str | None) -> dict[str, Any]:
    """Template variables: Qwen, GLM and others have ``enable_thinking``, DeepSeek V3.1 and Granite ``thinking``,
    gpt-oss ``reasoning_effort``, in which it knows no "none".
    """
    variables: dict[str, Any] = {}
    if effort is not None:
        thinking = effort != "none" if thinking is None else thinking
        variables["reasoning_effort"] = "low" if effort == "none" else effort
    if thinking is not None:
        variables |= {"enable_thinking": thinking, "thinking": thinking}
    return variables
