"""Limits of what one request may have: each is a 400 that names the field, in every dialect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from openai_wire import ask
from servers import ServerProcess, fake

USER = {"role": "user", "content": "<say>ok</say>"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
WIDE = {"type": "object", "properties": {f"property_{number}": {"type": "string"} for number in range(100)}}
ITEM = {"type": "message", **USER}


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerProcess]:
    """A server with small limits."""
    limits = {"messages": 3, "items": 3, "tools": 2, "schema_kb": 2, "stops": 2, "prompts": 2, "inputs": 2, "biases": 2}
    settings: dict[str, Any] = {f"max_{name}": str(limit) for name, limit in limits.items()}
    with fake(**settings) as server:
        yield server


def tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {**FUNCTION, "name": f"f{number}"}} for number in range(count)]


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": [USER] * 4}, "messages"),
    ("/v1/chat/completions/input_tokens", {"messages": [USER] * 4}, "messages"),
    ("/apply-template", {"messages": [USER] * 4}, "messages"),
    ("/tokenize", {"messages": [USER] * 4}, "messages"),
    ("/v1/messages", {"model": "fake", "max_tokens": 5, "messages": [USER] * 4}, "messages"),
    ("/v1/messages/count_tokens", {"model": "fake", "messages": [USER] * 4}, "messages"),
    ("/api/chat", {"model": "fake", "messages": [USER] * 4}, "messages"),
    ("/v1/responses", {"input": [USER] * 4}, "input"),
    ("/v1/responses/input_tokens", {"input": [USER] * 4}, "input"),
    ("/v1/conversations", {"items": [ITEM] * 4}, "items"),
    ("/v1/chat/completions", {"messages": [USER], "tools": tools(3)}, "tools"),
    ("/v1/chat/completions", {"messages": [USER], "functions": [FUNCTION] * 3}, "functions"),
    ("/v1/messages", {"model": "fake", "max_tokens": 5, "messages": [USER], "tools": [{"name": "f"}] * 3}, "tools"),
    ("/v1/responses", {"input": "a", "tools": [{"type": "function", "name": "f"}] * 3}, "tools"),
    ("/api/chat", {"model": "fake", "messages": [USER], "tools": tools(3)}, "tools"),
    ("/v1/chat/completions", {"messages": [USER], "stop": ["a", "b", "c"]}, "stop"),
    ("/v1/completions", {"prompt": "a", "stop": ["a", "b", "c"]}, "stop"),
    (
        "/v1/messages",
        {"model": "fake", "max_tokens": 5, "messages": [USER], "stop_sequences": ["a"] * 3},
        "stop_sequences",
    ),
    ("/completion", {"prompt": "a", "stop": ["a", "b", "c"]}, "stop"),
    ("/api/generate", {"model": "fake", "prompt": "a", "options": {"stop": ["a", "b", "c"]}}, "options.stop"),
    ("/v1/completions", {"prompt": ["a", "b", "c"]}, "prompt"),
    ("/completion", {"prompt": ["a", "b", "c"]}, "prompt"),
    ("/v1/embeddings", {"input": ["a", "b", "c"]}, "input"),
    ("/embedding", {"content": ["a", "b", "c"]}, "content"),
    ("/api/embed", {"model": "fake", "input": ["a", "b", "c"]}, "input"),
    ("/v1/chat/completions", {"messages": [USER], "logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias"),
    ("/completion", {"prompt": "a", "logit_bias": [[1, 1], [2, 1], [3, 1]]}, "logit_bias"),
    (
        "/v1/chat/completions",
        {"messages": [USER], "response_format": {"type": "json_object", "schema": WIDE}},
        "response_format",
    ),
    (
        "/v1/chat/completions",
        {"messages": [USER], "tools": [{**TOOL, "function": {**FUNCTION, "parameters": WIDE}}]},
        "tools",
    ),
    ("/v1/completions", {"prompt": "a", "guided_regex": "a{1,2}" * 500}, "guided_regex"),
    (
        "/v1/responses",
        {"input": "a", "text": {"format": {"type": "json_schema", "name": "n", "schema": WIDE}}},
        "text.format",
    ),
    ("/completion", {"prompt": "a", "json_schema": WIDE}, "json_schema"),
    ("/api/chat", {"model": "fake", "messages": [USER], "format": WIDE}, "format"),
]


@pytest.mark.parametrize(("path", "body", "param"), CASES)
def test_the_field_is_named(strict: ServerProcess, path: str, body: dict[str, Any], param: str) -> None:
    reply = ask(strict.port, "POST", path, body)
    assert reply.status == 400, reply.body
    error = reply.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert f"'{param}'" in message
    if not isinstance(error, str) and "type" not in reply.json():
        assert error["param"] == param


def test_what_is_within_the_limits_is_served(strict: ServerProcess) -> None:
    body = {"messages": [USER] * 3, "tools": tools(2), "stop": ["x", "y"], "logit_bias": {"1": 1, "2": 1}}
    assert ask(strict.port, "POST", "/v1/chat/completions", body).status == 200
    assert ask(strict.port, "POST", "/v1/completions", {"prompt": list(b"abc")}).status == 200
    assert ask(strict.port, "POST", "/v1/responses", {"input": [USER] * 3}).status == 200
