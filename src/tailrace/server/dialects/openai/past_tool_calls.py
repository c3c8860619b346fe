"""Calls in a chat's history, of functions, of custom tools, and in the older form, as templates expect them."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
from tailrace.errors import InvalidRequest
from tailrace.server.custom_tools import custom_arguments


class PastFunctionCall(msgspec.Struct):
    """The function of an earlier call. ``arguments`` is JSON text, or whatever else became of it."""

    name: str
    arguments: Any = None


class PastCustomCall(msgspec.Struct):
    """The custom tool of an earlier call."""

    name: str
    input: str = ""


class PastToolCall(msgspec.Struct):
    """A tool call in the history."""

    function: PastFunctionCall | None = None
    custom: PastCustomCall | None = None
    id: str | None = None
    type: str | None = None


def past_tool_call(call: PastToolCall, path: str) -> dict[str, Any]:
    """The call at ``path`` in the template's form. Raises InvalidRequest."""
    if call.function is not None:
        return _object(call.id, call.function.name, decode_arguments(call.function.arguments))
    if call.custom is not None:
        return _object(call.id, call.custom.name, custom_arguments(call.custom.input))
    raise InvalidRequest(f"'{path}.function' is missing.", param=f"{path}.function")


def past_legacy_call(call: PastFunctionCall) -> dict[str, Any]:
    """A message's ``function_call`` in the template's form. ``link_function_results`` gives it its id."""
    return _object(None, call.name, decode_arguments(call.arguments))


def link_function_results(messages: list[Message]) -> list[Message]:
    """Turn messages of the role ``function`` into tool results. Each answers the last call of its name, which gets an
    id if it has none.
    """
    calls: dict[str, dict[str, Any]] = {}  #: the last of each name
    for index, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            calls[call["function"]["name"]] = call
        if message["role"] == "function":
            message["role"] = "tool"
            answered = calls.get(message.get("name", ""))
            if answered is not None:
                answered["id"] = answered["id"] or f"call_{index}"
                message["tool_call_id"] = answered["id"]
    return messages


def _object(identity: str | None, name: str, arguments: dict[str, Any] | str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
