"""Reads a stream of OpenAI's Responses and checks every rule for its bytes on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from openai_wire import Reply

#: Each event of an item, in the order that they come in; those with ``*`` any number of times.
_MESSAGE = [
    "response.output_item.added",
    "response.content_part.added",
    "*response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
_THOUGHT = [name.replace("output_text", "reasoning_text") for name in _MESSAGE]
_SUMMARY = [name.replace("content_part", "reasoning_summary_part") for name in _MESSAGE]
_SUMMARY = [name.replace("output_text", "reasoning_summary_text") for name in _SUMMARY]
_CALL = [
    "response.output_item.added",
    "*response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
_CUSTOM = [name.replace("function_call_arguments", "custom_tool_call_input") for name in _CALL]


@dataclass
class ResponseStream:
    """A stream whose every byte was looked at."""

    events: list[dict[str, Any]]
    response: dict[str, Any]  #: the last event's
    #: The joined deltas of each item.
    deltas: list[str] = field(default_factory=list)

    @property
    def output(self) -> list[dict[str, Any]]:
        """The response's items."""
        items: list[dict[str, Any]] = self.response["output"]
        return items

    @property
    def text(self) -> str:
        """All text of all messages."""
        return "".join(part["text"] for item in self.output if item["type"] == "message" for part in item["content"])


def response_events(reply: Reply) -> list[dict[str, Any]]:
    """The events, after a look at headers, frames and numbers."""
    assert reply.status == 200, reply.body
    assert reply.header("content-type") == "text/event-stream"
    assert reply.header("cache-control") == "no-cache"
    assert reply.rest == b"", "something stands behind the terminating chunk"
    return framed(reply.chunks)


def framed(chunks: list[bytes]) -> list[dict[str, Any]]:
    """The events of chunks of which each is exactly one."""
    events = []
    for number, chunk in enumerate(chunks):
        name, data, *rest = chunk.decode().split("\n")
        assert rest == ["", ""], chunk
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        event = json.loads(data[6:])
        assert event["type"] == name[7:]
        assert event["sequence_number"] == number, "they count from 0, by one"
        events.append(event)
    return events


def response_stream(reply: Reply, status: str = "completed") -> ResponseStream:
    """A stream that ended with ``status``, after every rule was checked."""
    return checked(response_events(reply), status)


def checked(events: list[dict[str, Any]], status: str) -> ResponseStream:
    """The same for events that are read already."""
    created, begun, *middle, last = events
    assert (created["type"], begun["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == begun["response"]
    first = created["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["id"].startswith("resp_")
    assert last["type"] == f"response.{status}"
    response = last["response"]
    assert response["status"] == status
    changing = {"status", "output", "usage", "completed_at", "incomplete_details", "error"}
    assert {k: v for k, v in response.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    check_response(response)
    alive = [event for event in middle if event["type"] == "response.in_progress"]
    assert all(event["response"] == first for event in alive)
    stream = ResponseStream([created, begun, *middle, last], response)
    rest = [event for event in middle if event["type"] != "response.in_progress"]
    for index, item in enumerate(response["output"]):
        stream.deltas.append(_item(rest, index, item))
    assert not rest, f"events that belong to no item: {rest}"
    return stream


def _item(rest: list[dict[str, Any]], index: int, item: dict[str, Any]) -> str:
    """Consume the item's events. Returns the joined deltas."""
    orders = {"message": _MESSAGE, "function_call": _CALL, "custom_tool_call": _CUSTOM}
    order = orders.get(item["type"]) or (_SUMMARY if item["summary"] else _THOUGHT)
    text = ""
    for name in order:
        if name.startswith("*"):
            while rest and rest[0]["type"] == name[1:]:
                event = rest.pop(0)
                _place(event, index, item, name[1:])
                text += event["delta"]
            continue
        event = rest.pop(0)
        assert event["type"] == name
        _place(event, index, item, name)
        if name == "response.output_item.done":
            assert event["item"] == item, "the item is whole when it is done"
        elif name.endswith((".done", ".added")) and "part" not in name and "item" not in name:
            done = event.get("text", event.get("arguments", event.get("input")))
            assert done == text
        elif "part.done" in name:
            (part,) = item["summary"] or item["content"] if item["type"] == "reasoning" else item["content"]
            assert event["part"] == part
            assert event["part"]["text"] == text
        elif "part.added" in name:
            assert event["part"]["text"] == ""
    return text


def _place(event: dict[str, Any], index: int, item: dict[str, Any], name: str) -> None:
    assert event["output_index"] == index
    if "output_item" in name:
        assert event["item"]["id"] == item["id"]
        assert event["item"]["type"] == item["type"]
        if name.endswith("added"):
            assert event["item"]["status"] == "in_progress"
        return
    assert event["item_id"] == item["id"]
    if "summary" in name:
        assert event["summary_index"] == 0
    elif item["type"] in ("message", "reasoning"):
        assert event["content_index"] == 0


def check_response(response: dict[str, Any]) -> None:
    """A response that is over, as an object."""
    assert response["object"] == "response"
    assert type(response["created_at"]) is int
    usage = response["usage"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert type(usage[name]) is int
    assert usage["input_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert type(usage["input_tokens_details"]["cached_tokens"]) is int
    assert type(usage["output_tokens_details"]["reasoning_tokens"]) is int
    assert (response["completed_at"] is not None) == (response["status"] == "completed")
    assert (response["incomplete_details"] is not None) == (response["status"] == "incomplete")
    assert (response["error"] is not None) == (response["status"] == "failed")
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
