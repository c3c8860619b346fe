"""JSON that is nested deeply: every route and every field that takes free JSON answers, and refuses by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from openai_wire import Connection
from servers import ServerProcess

DEPTHS = (100, 970, 5_000, 100_000)
#: Stands in a body for the deep value, which Python's encoder couldn't write.
DEEP = "<deep>"
USER = [{"role": "user", "content": "<say>ok</say>"}]
FUNCTION = {"name": "f", "parameters": DEEP}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
INPUT = [{"role": "user", "content": "<say>ok</say>"}]


def _lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def _objects(depth: int) -> str:
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


def _schema(depth: int) -> str:
    return '{"not":' * (depth - 1) + "{}" + "}" * (depth - 1)


def _chat(**more: Any) -> dict[str, Any]:
    return {"messages": USER, "max_tokens": 4, **more}


def _called(arguments: Any) -> list[dict[str, Any]]:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    return [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]


CHAT, RESPONSES, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
#: Route, body, the beginning of the field that is named.
FIELDS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, _chat(tools=[{"type": "function", "function": FUNCTION}]), "tools[0].function.parameters"),
    (
        CHAT,
        _chat(response_format={"type": "json_schema", "json_schema": {"schema": DEEP, "name": "n"}}),
        "response_form",
    ),
    (CHAT, _chat(response_format={"type": "json_object", "schema": DEEP}), "response_format.schema"),
    (CHAT, _chat(guided_json=DEEP), "guided_json"),
    (CHAT, _chat(json_schema=DEEP), "json_schema"),
    (CHAT, _chat(structured_outputs={"json": DEEP}), "structured_outputs.json"),
    (CHAT, _chat(metadata=DEEP), "metadata"),
    (CHAT, _chat(chat_template_kwargs=DEEP), "chat_template_kwargs"),
    (CHAT, _chat(messages=_called(DEEP)), "messages[1].tool_calls[0]"),
    (CHAT, {"messages": [{"role": "user", "content": DEEP}]}, "messages[0].content"),
    (CHAT, _chat(unknown_field=DEEP), "unknown_field"),
    ("/v1/completions", {"prompt": "<say>ok</say>", "guided_json": DEEP}, "guided_json"),
    ("/v1/completions", {"prompt": DEEP}, "prompt"),
    ("/v1/embeddings", {"input": DEEP}, "input"),
    ("/v1/rerank", {"query": "a", "documents": [DEEP]}, "documents[0]"),
    ("/tokenize", {"messages": USER, "chat_template_kwargs": DEEP}, "chat_template_kwargs"),
    ("/apply-template", {"messages": USER, "tools": [{"type": "function", "function": FUNCTION}]}, "tools[0].function"),
    ("/detokenize", {"tokens": DEEP}, "tokens"),
    (RESPONSES, {"input": INPUT, "tools": [{"type": "function", "name": "f", "parameters": DEEP}]}, "tools[0].param"),
    (
        RESPONSES,
        {"input": INPUT, "text": {"format": {"type": "json_schema", "name": "n", "schema": DEEP}}},
        "text.form",
    ),
    (RESPONSES, {"input": INPUT, "metadata": DEEP}, "metadata"),
    (RESPONSES, {"input": [*INPUT, DEEP]}, "input[1]"),
    (MESSAGES, _chat(tools=[{"name": "f", "input_schema": DEEP}]), "tools[0].input_schema"),
    (MESSAGES, _chat(metadata=DEEP), "metadata"),
    (MESSAGES, _chat(output_config={"format": {"type": "json_schema", "schema": DEEP}}), "output_config.format.schema"),
    (
        MESSAGES,
        _chat(
            messages=[
                *USER,
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": DEEP}]},
            ]
        ),
        "messages[1].content[0].input",
    ),
    ("/v1/messages/count_tokens", {"messages": USER, "tools": [{"name": "f", "input_schema": DEEP}]}, "tools[0].input"),
    (OLLAMA, _chat(tools=[{"type": "function", "function": FUNCTION}]), "tools[0].function.parameters"),
    (OLLAMA, _chat(format=DEEP), "format"),
    (OLLAMA, _chat(options=DEEP), "options"),
    (OLLAMA, _chat(messages=_called(DEEP)), "messages[1].tool_calls[0]"),
    ("/api/generate", {"prompt": "<say>ok</say>", "format": DEEP}, "format"),
    ("/api/embed", {"input": DEEP}, "input"),
    ("/api/show", {"model": "fake", "options": DEEP}, "options"),
]


@pytest.mark.parametrize("write", [_lists, _objects, _schema])
@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_json_is_accepted_and_too_deep_json_is_refused_by_name(
    scripted: ServerProcess, depth: int, write: Callable[[int], str]
) -> None:
    with Connection(scripted.port) as connection:
        for path, body, field in FIELDS:
            text = json.dumps(body).replace(json.dumps(DEEP), write(depth))
            connection.request("POST", path, text.encode(), {"content-type": "application/json"})
            reply = connection.read()
            where = (path, field, depth, reply.body[:300])
            if depth <= 100:
                assert reply.status in (200, 400, 404, 501), where
                continue
            assert reply.status == 400, where
            error = json.loads(reply.body)["error"]
            message = error if isinstance(error, str) else error["message"]
            assert "nested too deeply" in message, where
            assert f"'{field}" in message, where
            if isinstance(error, dict) and "param" in error:
                assert error["param"].startswith(field), where


@pytest.mark.parametrize("depth", DEPTHS)
def test_json_within_strings_is_as_bounded(scripted: ServerProcess, depth: int) -> None:
    for write in (_lists, _objects):
        text = '{"a": ' + write(depth - 1) + "}"
        bodies = {
            CHAT: _chat(messages=_called(text)),
            RESPONSES: {"input": [*INPUT, {"type": "function_call", "call_id": "c", "name": "f", "arguments": text}]},
            "/v1/completions": {"prompt": "a", "max_tokens": 1, "guided_json": text},
        }
        for path, body in bodies.items():
            with Connection(scripted.port) as connection:
                connection.request("POST", path, body)
                reply = connection.read()
            assert reply.status in (200, 400), (path, depth, reply.body[:300])


def test_what_is_in_strings_is_no_nesting(scripted: ServerProcess) -> None:
    text = '"[' * 400 + "\\{" * 400
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, _chat(messages=[{"role": "user", "content": text}]))
        assert connection.read().status == 200
