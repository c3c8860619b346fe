"""Ollama's streams as they were on the wire, after a look at every byte that its clients depend on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from openai_wire import Reply

COUNTS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


@dataclass
class Told:
    """The content of a stream or of a complete reply."""

    objects: list[dict[str, Any]]
    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.objects[-1]


def lines(reply: Reply) -> list[dict[str, Any]]:
    """The objects of a stream whose every chunk is one line."""
    assert reply.status == 200, reply.body
    assert reply.header("content-type") == "application/x-ndjson"
    assert reply.header("cache-control") == "no-cache"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("transfer-encoding") == "chunked"
    assert reply.header("content-length") is None
    assert reply.header("content-encoding") is None
    assert reply.rest == b"", "something stands behind the terminating chunk"
    for chunk in reply.chunks:
        assert chunk.endswith(b"}\n"), chunk
        assert chunk.startswith(b"{"), chunk
        assert chunk.count(b"\n") == 1, chunk
        assert b"\r" not in chunk
        assert len(chunk) < 60_000
    return [json.loads(chunk) for chunk in reply.chunks]


def check_time(text: str, *, within: timedelta = timedelta(minutes=5)) -> None:
    """RFC 3339, in UTC, and ``within`` that time of now."""
    assert text.endswith("Z")
    assert "T" in text
    assert abs(datetime.fromisoformat(text) - datetime.now(UTC)) < within


def stream(reply: Reply) -> Told:
    """A stream of ``/api/chat`` or ``/api/generate`` that ended well."""
    return _told(lines(reply))


def whole(reply: Reply) -> Told:
    """The one object of a reply that wasn't streamed."""
    assert reply.status == 200, reply.body
    return _told([reply.json()])


def _told(objects: list[dict[str, Any]]) -> Told:
    told = Told(objects)
    assert len({entry["model"] for entry in objects}) == 1
    for number, entry in enumerate(objects):
        _no_null(entry)
        check_time(entry["created_at"])
        last = number == len(objects) - 1
        assert entry["done"] is last
        assert set(entry) & {"done_reason", *COUNTS} == ({"done_reason", *COUNTS} if last else set())
        _gather(told, entry)
    assert told.last["done_reason"] in {"stop", "length", "load", "unload"}
    for name in COUNTS:
        assert type(told.last[name]) is int
        assert told.last[name] >= 0
    parts = told.last["load_duration"] + told.last["prompt_eval_duration"] + told.last["eval_duration"]
    assert parts <= told.last["total_duration"] + 3, "the parts are longer than the whole, rounding aside"
    return told


def _gather(told: Told, entry: dict[str, Any]) -> None:
    if "response" in entry:
        assert isinstance(entry["response"], str)
        told.text += entry["response"]
        told.thinking += entry.get("thinking", "")
        assert entry.get("thinking") != ""
    else:
        message = entry["message"]
        assert message["role"] == "assistant"
        assert isinstance(message["content"], str)
        assert message.get("thinking") != ""
        assert message.get("tool_calls") != []
        told.text += message["content"]
        told.thinking += message.get("thinking", "")
        for call in message.get("tool_calls", []):
            assert set(call) == {"id", "function"}
            assert set(call["function"]) == {"index", "name", "arguments"}
            assert call["function"]["index"] == len(told.calls)
            assert isinstance(call["function"]["arguments"], dict)
            told.calls.append(call)
    told.logprobs += entry.get("logprobs", [])


def _no_null(value: Any) -> None:
    assert value is not None
    if isinstance(value, dict):
        for inner in value.values():
            _no_null(inner)
    elif isinstance(value, list):
        for inner in value:
            _no_null(inner)


def error(reply: Reply) -> str:
    """The body's error, which is a text and nothing else."""
    body = reply.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert body["error"]
    text: str = body["error"]
    return text
