"""Replays a stored response as stream events, for responses without stored events.

Each item has the events of its generation, with its text in one piece. Sequence numbers are the same each time."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.tools import Function
from tailrace.server import sse
from tailrace.server.choice import split_text
from tailrace.server.custom_tools import custom_arguments
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.output import CallOutput, Emit, MessageOutput, ReasoningOutput
from tailrace.server.dialects.responses.tools import Tool

#: The fields that change during a response, with their first values.
_INITIAL_FIELDS: dict[str, Any] = {
    "status": "in_progress",
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "output": [],
    "usage": None,
}


def replay(response: dict[str, Any]) -> Recording:
    """The events of a response that is over. One that was cancelled has no last event, as when it happened."""
    recording = Recording(closed=True)

    def emit(kind: str, fields: dict[str, Any]) -> None:
        event = {"type": kind, **fields, "sequence_number": len(recording.pieces)}
        recording.pieces.append(sse.named(kind, msgspec.json.encode(event)))

    initial = {**response, **_INITIAL_FIELDS}
    emit("response.created", {"response": initial})
    emit("response.in_progress", {"response": initial})
    for index, item in enumerate(response["output"]):
        _REPLAYS[item["type"]](emit, index, item)
    if response["status"] in ("completed", "incomplete", "failed"):
        emit(f"response.{response['status']}", {"response": response})
    return recording


def _message(emit: Emit, index: int, item: Item) -> None:
    output = MessageOutput(emit, index, identity=item["id"])
    (part,) = item["content"]
    for text in split_text(part["text"]):
        output.delta(text, None)
    output.logprobs += part["logprobs"]
    output.close(item["status"])


def _reasoning(emit: Emit, index: int, item: Item) -> None:
    summary = bool(item["summary"])
    output = ReasoningOutput(emit, index, summary=summary, encrypted="encrypted_content" in item, identity=item["id"])
    (part,) = item["summary"] if summary else item["content"]
    for text in split_text(part["text"]):
        output.delta(text)
    output.close(item["status"])


def _call(emit: Emit, index: int, item: Item) -> None:
    custom = item["type"] == "custom_tool_call"
    tool = Tool(item["name"], item.get("namespace"), custom, Function(name=item["name"]))
    output = CallOutput(emit, index, item["call_id"], item["name"], tool, identity=item["id"])
    text = msgspec.json.encode(custom_arguments(item["input"])).decode() if custom else item["arguments"]
    for piece in split_text(text):
        output.delta(piece)
    output.close(item["status"])


_REPLAYS = {"message": _message, "reasoning": _reasoning, "function_call": _call, "custom_tool_call": _call}
