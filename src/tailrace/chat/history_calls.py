"""Calls of the history as templates take them: some want the arguments as an object, others as its JSON text.

A call that was cut has arguments that are no object, but a text (see ``arguments``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tailrace.chat.template_capabilities import Message
from tailrace.chat.template_environment import to_json


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
        return to_json(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)


def as_templates_expect(message: Message) -> Message:
    """The message with the names that templates know its thought by, and arguments that are object and text."""
    thought = message.get("reasoning_content")
    if thought is not None:
        message = {"thinking": thought, **message}
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_with(call, _wrapped(_arguments(call))) for call in message["tool_calls"]]}


def with_object_arguments(messages: list[Message]) -> list[Message]:
    """The messages with an empty object for arguments that are none, for templates that fail on text."""
    return [
        {
            **message,
            "tool_calls": [
                call if isinstance(_arguments(call), dict) else _with(call, {}) for call in message["tool_calls"]
            ],
        }
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _arguments(call: dict[str, Any]) -> dict[str, Any] | str:
    arguments: dict[str, Any] | str = call["function"]["arguments"]
    return arguments


def _with(call: dict[str, Any], arguments: dict[str, Any] | str) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _wrapped(arguments: dict[str, Any] | str) -> _Arguments | _BrokenArguments:
    return _BrokenArguments(arguments) if isinstance(arguments, str) else _Arguments(arguments)
