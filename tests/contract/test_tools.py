"""Tools that have to be called, by the real model: whatever it would rather say, calls fit the functions' schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from openai_wire import ask, chat_stream
from servers import ServerProcess

CHAT = "/v1/chat/completions"
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "where": {"$ref": "#/$defs/place"},
    },
    "required": ["city", "days", "where"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"inside": {"type": "boolean"}},
            "required": ["inside"],
            "additionalProperties": False,  # Else the model invents members until its limit.
        }
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": CITY,
    "now": {"type": "object", "properties": {}},
    "vote": {
        "type": "object",
        "properties": {"for": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 2}},
        "required": ["for"],
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
MESSAGES = [{"role": "user", "content": "What is the weather in Rome? Vote, and tell me the time, please."}]


def body(**fields: object) -> dict[str, Any]:
    return {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 400, "temperature": 1.0, **fields}


def calls(server: ServerProcess, **fields: object) -> list[dict[str, Any]]:
    """The functions that are called, each call held against its schema."""
    reply = ask(server.port, "POST", CHAT, body(**fields))
    assert reply.status == 200, reply.body
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    functions: list[dict[str, Any]] = [call["function"] for call in choice["message"]["tool_calls"]]
    for function in functions:
        jsonschema.validate(json.loads(function["arguments"]), SCHEMAS[function["name"]])
    return functions


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_fits_its_schema(real: ServerProcess, seed: int) -> None:
    assert len(calls(real, tool_choice="required", parallel_tool_calls=False, seed=seed)) == 1


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_function_is_called_once(real: ServerProcess, name: str) -> None:
    (function,) = calls(real, tool_choice={"type": "function", "function": {"name": name}}, seed=1)
    assert function["name"] == name


def test_a_required_call_streams(real: ServerProcess) -> None:
    reply = ask(real.port, "POST", CHAT, body(tool_choice="required", parallel_tool_calls=False, stream=True, seed=3))
    ((call,),) = chat_stream(reply).calls
    jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]])


def test_a_function_without_parameters(real: ServerProcess) -> None:
    tools = [{"type": "function", "function": {"name": "stop"}}]
    reply = ask(real.port, "POST", CHAT, body(tools=tools, tool_choice="required", parallel_tool_calls=False))
    (call,) = reply.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "stop", "arguments": "{}"}


def _tool(parameters: dict[str, Any], **more: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": _tool({"type": "string"})()}, "tools"),
        ({"tools": _tool({"not": {"type": "object"}}, strict=True)(), "tool_choice": "required"}, "tools"),
        ({"tools": _tool({"not": {"type": "object"}}, strict=True)()}, "tools"),
    ],
)
def test_what_cant_be_called_is_a_400_that_names_the_field(
    scripted: ServerProcess, fields: dict[str, object], param: str
) -> None:
    reply = ask(scripted.port, "POST", CHAT, body(**fields))
    assert (reply.status, reply.error()["param"]) == (400, param), reply.body


CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([ASSISTANT, {**RESULT, "tool_call_id": 1}], "messages[1].tool_call_id"),
        ([{**ASSISTANT, "tool_calls": [{"id": "call_1"}]}], "messages[0].tool_calls[0].function"),
        ([{**ASSISTANT, "tool_calls": {}}], "messages[0].tool_calls"),
    ],
)
def test_a_malformed_history_is_a_400_that_names_the_field(
    scripted: ServerProcess, messages: list[dict[str, Any]], param: str
) -> None:
    reply = ask(scripted.port, "POST", CHAT, body(messages=messages))
    assert (reply.status, reply.error()["param"]) == (400, param), reply.body


def test_a_history_with_tools_is_understood(real: ServerProcess) -> None:
    messages = [*MESSAGES, ASSISTANT, RESULT, {"role": "user", "content": "Thanks."}]
    assert ask(real.port, "POST", CHAT, body(messages=messages, max_tokens=2)).status == 200
