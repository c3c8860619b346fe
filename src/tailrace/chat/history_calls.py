"""Earlier calls in the form that templates expect: some want the arguments as an object, others as JSON text.

The arguments of a call that was cut are a text (see ``call_arguments``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tailrace.chat.messages import Message
from tailrace.chat.template_environment import to_json


class _BrokenArguments(str):
    """The text of broken arguments. Templates that iterate over an object's members find none."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def items(self) -> Iterable[tuple[str, Any]]:
        return ()

    keys = values = items

    def get(self, name: str, default: object = None) -> object:
        return default


class _Arguments(dict[str, Any]):
    """A call's arguments, as an object that is also its JSON text where a template wants text."""

    def __str__(self) -> str:
        return to_json(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)


def as_templates_expect(message: Message) -> Message:
    """The message with all names that templates have for a thought, and arguments that are object and text."""
    thought = message.get("reasoning_content")
    if thought is not None:
        message = {"thinking": thought, **message}
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_with(call, _wrapped(_arguments(call))) for call in message["tool_calls"]]}


def with_object_arguments(messages: list[Message]) -> list[Message]:
    """The messages with an empty object for broken arguments, for templates that fail on text."""
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
