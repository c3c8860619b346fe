"""Rewrites a conversation with tools for chat templates that don't support them.

The functions go into the system message, with Hermes' syntax for calls. Earlier calls become the assistant's text, and
their results become the user's messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tailrace.chat.tools import Function

_INSTRUCTIONS = (
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{functions}\n</tools>\n\n"
    "For each function call, return a JSON object with the function's name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{{"name": <function-name>, "arguments": <arguments-object>}}\n</tool_call>'
)


def add_functions(messages: Sequence[dict[str, Any]], functions: Sequence[Function]) -> list[dict[str, Any]]:
    """The messages with the functions in the first system message, or in a new one."""
    instructions = _INSTRUCTIONS.format(functions="\n".join(_dumps(function.as_openai()) for function in functions))
    for position, message in enumerate(messages):
        if message["role"] in ("system", "developer"):
            system = {**message, "content": f"{message['content']}\n\n{instructions}"}
            return [*messages[:position], system, *messages[position + 1 :]]
    return [{"role": "system", "content": instructions}, *messages]


def calls_to_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with tool calls and their results as text; neighbouring results become one message."""
    rewritten: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if after_result:
                rewritten[-1]["content"] += f"\n{text}"
            else:
                rewritten.append({"role": "user", "content": text})
            after_result = True
            continue
        after_result = False
        calls = message.get("tool_calls") or ()
        texts = [message["content"]] if message["content"] else []
        texts += [f"<tool_call>\n{_dumps(_name_and_arguments(call))}\n</tool_call>" for call in calls]
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        rewritten.append({**rest, "content": "\n".join(texts)})
    return rewritten


def calls_to_alternating_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, with neighbouring user messages joined: templates that are strict about calls also want alternating
    roles.
    """
    joined: list[dict[str, Any]] = []
    for message in calls_to_text(messages):
        if joined and message["role"] == joined[-1]["role"] == "user":
            joined[-1] = {**joined[-1], "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _name_and_arguments(call: dict[str, Any]) -> dict[str, Any]:
    return {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
