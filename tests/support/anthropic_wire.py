"""Looks at every byte of a stream in Anthropic's dialect."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from openai_wire import Reply


@dataclass
class Message:
    """The content of a stream, after every rule for its bytes was checked."""

    content: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    started: dict[str, Any] = field(default_factory=dict)  #: of message_start
    usage: dict[str, Any] = field(default_factory=dict)  #: of message_delta
    pings: int = 0

    @property
    def text(self) -> str:
        """All texts."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")


def events(chunks: list[bytes]) -> list[dict[str, Any]]:
    """The events, of which each came as exactly one chunk with the line of its name."""
    found = []
    for chunk in chunks:
        name, data, rest = chunk.split(b"\n", 2)
        assert rest == b"\n", chunk
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        assert b"\r" not in chunk
        assert len(data) < 60_000
        value = json.loads(data[6:].decode("utf-8"))
        assert value["type"].encode() == name[7:]
        found.append(value)
    return found


def message_stream(reply: Reply) -> Message:
    """A stream that ended well."""
    assert reply.status == 200
    assert reply.header("content-type") == "text/event-stream"
    assert reply.header("cache-control") == "no-cache"
    assert reply.header("x-accel-buffering") == "no"
    assert (reply.header("request-id") or "").startswith("req_")
    assert reply.rest == b"", "something stands behind the terminating chunk"
    told = events(reply.chunks)
    pings = [event for event in told if event["type"] == "ping"]
    assert all(event == {"type": "ping"} for event in pings)
    assert told[[event["type"] for event in told].index("message_start") + 1] == {"type": "ping"}
    first, *between, delta, last = [event for event in told if event["type"] != "ping"]
    assert first["type"] == "message_start"
    started = first["message"]
    assert set(started) == {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    assert started["id"].startswith("msg_")
    assert (started["type"], started["role"], started["content"]) == ("message", "assistant", [])
    assert (started["stop_reason"], started["stop_sequence"]) == (None, None)
    message = Message(blocks(between), started=started, usage=delta["usage"], pings=len(pings))
    assert delta == {"type": "message_delta", "delta": delta["delta"], "usage": delta["usage"]}
    assert set(delta["delta"]) == {"stop_reason", "stop_sequence"}
    message.stop_reason, message.stop_sequence = delta["delta"]["stop_reason"], delta["delta"]["stop_sequence"]
    check_ending(message.content, message.stop_reason, message.stop_sequence)
    check_usage(started["usage"])
    check_usage(message.usage)
    read = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert sum(started["usage"][name] for name in read) == sum(message.usage[name] for name in read)
    assert last == {"type": "message_stop"}
    return message


def check_ending(content: list[dict[str, Any]], reason: str | None, stop: str | None) -> None:
    """The stop reason is a known one and fits the content."""
    assert reason in {"end_turn", "max_tokens", "stop_sequence", "tool_use"}
    assert (reason == "stop_sequence") == (stop is not None)
    assert (reason == "tool_use") == (content[-1]["type"] == "tool_use")


def check_usage(usage: dict[str, Any]) -> None:
    """Integers."""
    names = {"input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"}
    assert set(usage) == names | {"output_tokens_details"}
    (thinking,) = usage["output_tokens_details"].items()
    assert thinking[0] == "thinking_tokens"
    assert 0 <= thinking[1] <= usage["output_tokens"]
    assert all(type(usage[name]) is int and usage[name] >= 0 for name in names)


def blocks(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks, each with a start, deltas of its kind and a stop, before the next one."""
    found: list[dict[str, Any]] = []
    begun = False
    for event in told:
        if event["type"] == "content_block_start":
            assert not begun
            begun = True
            assert event["index"] == len(found)
            found.append(event["content_block"])
            found[-1]["json"] = ""
            continue
        assert begun
        assert event["index"] == len(found) - 1
        if event["type"] == "content_block_stop":
            begun = False
            _whole(found[-1])
            continue
        assert event["type"] == "content_block_delta"
        _add(found[-1], event["delta"])
    assert not begun
    assert found
    return found


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match block["type"], delta["type"]:
        case "text", "text_delta":
            block["text"] += delta["text"]
        case "thinking", "thinking_delta":
            assert not block["signature"], "the signature is a thought's last"
            block["thinking"] += delta["thinking"]
        case "thinking", "signature_delta":
            block["signature"] += delta["signature"]
        case "tool_use", "input_json_delta":
            block["json"] += delta["partial_json"]
        case other:
            raise AssertionError(f"a delta of another kind: {other}")


def _whole(block: dict[str, Any]) -> None:
    written = block.pop("json")
    if block["type"] == "tool_use":
        assert block["input"] == {}
        block["input"] = json.loads(written)
        assert isinstance(block["input"], dict)
        assert block["id"].startswith("toolu_")
    elif block["type"] == "thinking":
        assert block["signature"]
