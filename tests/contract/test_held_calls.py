"""Calls under ``auto`` in every dialect, where the model would write another name and arguments that don't fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from openai_wire import ask, say
from servers import ServerProcess

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city"],
}
WRONG = '<tool_call>{"name": "weather.Rome", "arguments": {"town": "Rome", "town": }}</tool_call>'
FUNCTION = {"name": "weather", "parameters": SCHEMA}


def _calls_of_chat(reply: dict[str, Any]) -> list[tuple[str, Any]]:
    message = reply["choices"][0]["message"]
    assert message["content"].startswith("Well.")  # What follows the call is the script's rest.
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]


def _calls_of_responses(reply: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (item["name"], json.loads(item["arguments"])) for item in reply["output"] if item["type"] == "function_call"
    ]


def _calls_of_messages(reply: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(block["name"], block["input"]) for block in reply["content"] if block["type"] == "tool_use"]


def _calls_of_ollama(reply: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in reply["message"]["tool_calls"]]


USER = [{"role": "user", "content": say(f"Well. {WRONG}")}]
TOOLS = [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize(
    ("path", "body", "calls"),
    [
        ("/v1/chat/completions", {"messages": USER, "tools": TOOLS, "max_tokens": 300}, _calls_of_chat),
        (
            "/v1/responses",
            {"input": USER, "tools": [{"type": "function", **FUNCTION}], "max_output_tokens": 300},
            _calls_of_responses,
        ),
        (
            "/v1/messages",
            {
                "model": "fake",
                "messages": USER,
                "tools": [{"name": "weather", "input_schema": SCHEMA}],
                "max_tokens": 300,
            },
            _calls_of_messages,
        ),
        ("/api/chat", {"messages": USER, "tools": TOOLS, "stream": False}, _calls_of_ollama),
    ],
    ids=["chat", "responses", "messages", "ollama"],
)
def test_a_call_has_an_offered_name_and_arguments_that_fit(
    scripted: ServerProcess, path: str, body: dict[str, Any], calls: Callable[[dict[str, Any]], list[tuple[str, Any]]]
) -> None:
    reply = ask(scripted.port, "POST", path, body)
    assert reply.status == 200, reply.body
    found = calls(reply.json())
    assert found, reply.body
    name, arguments = found[0]
    assert name == "weather"
    assert arguments["city"] in ("Rome", "Oslo")
    assert set(arguments) <= {"city", "days"}


def test_what_no_grammar_holds_is_no_error_unless_the_tool_is_strict(scripted: ServerProcess) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    body = {"messages": [{"role": "user", "content": say("Hi.")}], "max_tokens": 20}
    for parameters in (odd, {"type": "object", "properties": {"a": {"$ref": "http://example.com/a"}}}, {"oneOf": 3}):
        function: dict[str, Any] = {"name": "f", "parameters": parameters}
        offered = {**body, "tools": [{"type": "function", "function": function}]}
        reply = ask(scripted.port, "POST", "/v1/chat/completions", offered)
        assert reply.status == 200, reply.body
        assert reply.json()["choices"][0]["message"]["content"] == "Hi."
        function["strict"] = True
        reply = ask(scripted.port, "POST", "/v1/chat/completions", offered)
        assert (reply.status, reply.error()["param"]) == (400, "tools"), reply.body
