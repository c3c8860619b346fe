"""Conversations to prompts, with the model's own chat template in jinja2's immutable sandbox.

Templates differ in what they bear: some know no system role, some want it first, few know the developer role. What a
template refuses is tried again in the next simpler form before the client is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tailrace.chat.prompt import Names, Prompt
from tailrace.errors import InvalidRequest, ModelError

Message = dict[str, Any]  #: role, content (a string) and what else the template may want

#: For models without a template of their own.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TemplateRefusal(jinja2.TemplateError):
    """The template itself called ``raise_exception``."""


class ChatTemplate:
    """A compiled chat template."""

    def __init__(
        self, source: str | None, *, bos_token: str, eos_token: str, special_tokens: Iterable[str] = ()
    ) -> None:
        """Raises ModelError when ``source`` is no valid template; None is ChatML. ``special_tokens`` are the names that
        the template alone may write so that they mean something.
        """
        self._special = Names(special_tokens)
        self.source = source or CHATML
        self._knows_developer = "developer" in self.source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(self.source)
            #: Whether it tells the model which tools there are.
            self.knows_tools = "tools" in meta.find_undeclared_variables(environment.parse(self.source))
        except jinja2.TemplateError as error:
            raise ModelError(f"the model's chat template can't be compiled: {error}") from error

    def render(
        self, messages: list[Message], tools: list[Any] | None = None, variables: dict[str, Any] | None = None
    ) -> Prompt:
        """The prompt that asks for the next assistant message; ``variables`` are the template's own extras, such as
        ``enable_thinking``. Raises InvalidRequest when the template refuses.
        """
        if not self._knows_developer:
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
        (messages, tools, variables), hidden = self._special.hide((messages, tools, variables))
        messages = [_with_arguments(message) for message in messages]
        refusal: jinja2.TemplateError | None = None
        forms = [messages, _system_first(messages), _system_in_user(messages)]
        if _has_broken_arguments(messages):
            forms += map(_without_broken_arguments, list(forms))
        for form in forms:
            try:
                text = self._template.render(
                    {
                        **(variables or {}),
                        **self._tokens,
                        "messages": form,
                        "tools": tools,
                        "add_generation_prompt": True,
                    }
                )
                return Prompt(text) if hidden is None else hidden.reveal(text)
            except jinja2.TemplateError as error:
                refusal = refusal or error
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                # Templates are programs: on messages that they don't expect they fail like any other.
                refusal = refusal or jinja2.TemplateError(str(error))
        raise InvalidRequest(f"the model's chat template refuses these messages: {refusal}", param="messages")


class _BrokenArguments(str):
    """The text of a call's arguments that are no object. Templates that go through an object's members find none."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def items(self) -> Iterable[tuple[str, Any]]:
        return ()

    keys = values = items

    def get(self, name: str, default: object = None) -> object:
        return default


class _Arguments(dict[str, Any]):
    """A call's arguments. Some templates take them for an object and others for its JSON text."""

    def __str__(self) -> str:
        return _to_json(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)


def _with_arguments(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {
        **message,
        "tool_calls": [
            {**call, "function": {**call["function"], "arguments": _wrapped(call["function"]["arguments"])}}
            for call in calls
        ],
    }


def _wrapped(arguments: dict[str, Any] | str) -> _Arguments | _BrokenArguments:
    return _BrokenArguments(arguments) if isinstance(arguments, str) else _Arguments(arguments)


def _without_broken_arguments(messages: list[Message]) -> list[Message]:
    """The messages with an empty object for arguments that are none, for templates that fail on text."""
    return [
        {
            **message,
            "tool_calls": [
                {**call, "function": {**call["function"], "arguments": _Arguments()}}
                if isinstance(call["function"]["arguments"], _BrokenArguments)
                else call
                for call in message["tool_calls"]
            ],
        }
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _has_broken_arguments(messages: list[Message]) -> bool:
    return any(
        isinstance(call["function"]["arguments"], _BrokenArguments)
        for message in messages
        for call in message.get("tool_calls") or ()
    )


def _system_first(messages: list[Message]) -> list[Message]:
    """All system messages joined into one at the start."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest] if system else rest


def _system_in_user(messages: list[Message]) -> list[Message]:
    """The system text at the head of the first user message, for templates without a system role."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    for position, message in enumerate(rest):
        if message["role"] == "user" and system:
            text = "\n\n".join([*system, message["content"]])
            return [*rest[:position], {**message, "content": text}, *rest[position + 1 :]]
    return rest


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Not jinja2's own filter: that one escapes for HTML, and models were trained on plain JSON.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
