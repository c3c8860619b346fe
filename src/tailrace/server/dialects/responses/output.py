"""Builds a reply's items from a generation's events, and emits the API's stream events.

Replies that aren't streamed use the same classes without ``emit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server.custom_tools import custom_input
from tailrace.server.dialects.openai.reply import logprob_object
from tailrace.server.dialects.responses.items import Item, encode_reasoning, new_id
from tailrace.server.dialects.responses.response_object import Status
from tailrace.server.dialects.responses.tools import Tool, Toolset
from tailrace.server.events import (
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

#: Sends one event: its type, and its other fields without the sequence number.
Emit = Callable[[str, dict[str, Any]], None]


def _silent(kind: str, fields: dict[str, Any]) -> None:
    """The ``Emit`` of a reply that isn't streamed."""


class MessageOutput:
    """A message that is being written."""

    def __init__(self, emit: Emit, index: int, *, identity: str | None = None) -> None:
        """``identity``: the item's id; None is a new one."""
        self.id = identity or new_id("message")
        self.texts: list[str] = []
        self._emit = emit
        self._index = index
        self.logprobs: list[dict[str, Any]] = []
        self._position = {"item_id": self.id, "output_index": index, "content_index": 0}
        emit("response.output_item.added", {"output_index": index, "item": self._item("in_progress", [])})
        emit("response.content_part.added", {**self._position, "part": self._part()})

    def delta(self, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """More of its text."""
        self.texts.append(text)
        entries = [logprob_object(entry) for entry in logprobs or ()]
        self.logprobs += entries
        self._emit("response.output_text.delta", {**self._position, "delta": text, "logprobs": entries})

    def before_text(self) -> bytes:
        """The event of a delta as bytes, up to its text."""
        kind = "response.output_text.delta"
        place = msgspec.json.encode({"type": kind, **self._position})[:-1]
        return b'event: %b\ndata: %b,"delta":' % (kind.encode(), place)

    def close(self, status: str) -> Item:
        """End it."""
        part = self._part()
        item = self._item(status, [part])
        done = {**self._position, "text": part["text"], "logprobs": self.logprobs}
        self._emit("response.output_text.done", done)
        self._emit("response.content_part.done", {**self._position, "part": part})
        self._emit("response.output_item.done", {"output_index": self._index, "item": item})
        return item

    def _part(self) -> dict[str, Any]:
        text = "".join(self.texts)
        return {"type": "output_text", "annotations": [], "logprobs": self.logprobs, "text": text}

    def _item(self, status: str, content: list[dict[str, Any]]) -> Item:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class ReasoningOutput:
    """Reasoning, as text or, with ``summary``, as a summary part, which has the whole text as well."""

    def __init__(self, emit: Emit, index: int, *, summary: bool, encrypted: bool, identity: str | None = None) -> None:
        """``identity`` as for ``MessageOutput``."""
        self._emit = emit
        self._index = index
        self._summary = summary
        self._encrypted = encrypted
        self._texts: list[str] = []
        self._id = identity or new_id("reasoning")
        self._position = {
            "item_id": self._id,
            "output_index": index,
            "summary_index" if summary else "content_index": 0,
        }
        self._part_name = "response.reasoning_summary_part" if summary else "response.content_part"
        self._text_name = "response.reasoning_summary_text" if summary else "response.reasoning_text"
        emit("response.output_item.added", {"output_index": index, "item": self._item("in_progress")})
        emit(f"{self._part_name}.added", {**self._position, "part": self._part("")})

    def delta(self, text: str) -> None:
        """More of it."""
        self._texts.append(text)
        self._emit(f"{self._text_name}.delta", {**self._position, "delta": text})

    def close(self, status: str) -> Item:
        """End it."""
        text = "".join(self._texts)
        item = self._item(status, text)
        self._emit(f"{self._text_name}.done", {**self._position, "text": text})
        self._emit(f"{self._part_name}.done", {**self._position, "part": self._part(text)})
        self._emit("response.output_item.done", {"output_index": self._index, "item": item})
        return item

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text" if self._summary else "reasoning_text", "text": text}

    def _item(self, status: str, text: str | None = None) -> Item:
        item: Item = {"id": self._id, "type": "reasoning", "status": status, "summary": []}
        if not self._summary:
            item["content"] = []
        if text is not None:
            item["summary" if self._summary else "content"] = [self._part(text)]
            if self._encrypted:
                item["encrypted_content"] = encode_reasoning(text)
        return item


class CallOutput:
    """A call of a function or of a custom tool. A custom tool's input is known at the end of the arguments."""

    def __init__(
        self, emit: Emit, index: int, call_id: str, name: str, tool: Tool | None, *, identity: str | None = None
    ) -> None:
        """``identity`` as for ``MessageOutput``."""
        self._emit = emit
        self._index = index
        self._custom = tool is not None and tool.custom
        self._arguments: list[str] = []
        kind = "custom_tool_call" if self._custom else "function_call"
        self._item: Item = {"id": identity or new_id(kind), "type": kind, "status": "in_progress", "call_id": call_id}
        self._item["name"] = name if tool is None else tool.name
        if tool is not None and tool.namespace is not None:
            self._item["namespace"] = tool.namespace
        self._item["input" if self._custom else "arguments"] = ""
        self._position = {"item_id": self._item["id"], "output_index": index}
        emit("response.output_item.added", {"output_index": index, "item": {**self._item}})

    def delta(self, arguments: str) -> None:
        """More of its arguments."""
        self._arguments.append(arguments)
        if not self._custom and arguments:
            self._emit("response.function_call_arguments.delta", {**self._position, "delta": arguments})

    def close(self, status: str) -> Item:
        """End it."""
        arguments = "".join(self._arguments)
        self._item["status"] = status
        if self._custom:
            given = self._item["input"] = custom_input(arguments)
            self._emit("response.custom_tool_call_input.delta", {**self._position, "delta": given})
            self._emit("response.custom_tool_call_input.done", {**self._position, "input": given})
        else:
            self._item["arguments"] = arguments
            done = {**self._position, "name": self._item["name"], "arguments": arguments}
            self._emit("response.function_call_arguments.done", done)
        self._emit("response.output_item.done", {"output_index": self._index, "item": self._item})
        return self._item


class Output:
    """One reply. It is a generation's ``EventSink``.

    ``status`` is ``in_progress`` until ``Usage`` or ``Failure``; a cancelled generation leaves it so."""

    def __init__(self, tools: Toolset, *, summary: bool, encrypted: bool, emit: Emit = _silent) -> None:
        self.status: Status = "in_progress"
        self.usage: Usage | None = None
        self.error: RequestError | None = None
        self.message: MessageOutput | None = None  #: the one that is open
        self._tools = tools
        self._summary = summary
        self._encrypted = encrypted
        self._emit = emit
        self._items: list[Item] = []
        self._open: MessageOutput | ReasoningOutput | CallOutput | None = None
        self._cut = False  #: the limit of tokens has ended it

    def items(self) -> list[Item]:
        """Its items; one that is still open ends here, unheard."""
        if self._open is not None:
            self._emit = self._open._emit = _silent
            self._close("incomplete")
        return self._items

    def emit(self, event: Event) -> None:
        """See ``EventSink``."""
        if isinstance(event, TextDelta):
            self._message().delta(event.text, event.logprobs)
        elif isinstance(event, ReasoningDelta):
            self._thought().delta(event.text)
        elif isinstance(event, ToolCallDelta):
            self._call(event)
        elif isinstance(event, Finish):
            self._cut = event.reason == "length"
            if self._open is None and not self._items:
                self._message()  # A reply without a word is a message all the same.
            self._close("incomplete" if self._cut else "completed")
        elif isinstance(event, Usage):
            self.usage = event
            self.status = "incomplete" if self._cut else "completed"
        elif isinstance(event, Failure):
            self.error, self.usage, self.status = event.error, event.usage, "failed"

    def tick(self, seconds: float) -> None:
        """See ``EventSink``: the client gets nothing before the end."""

    def _message(self) -> MessageOutput:
        if self.message is None:
            self._close("completed")
            self._open = self.message = MessageOutput(self._emit, len(self._items))
        return self.message

    def _thought(self) -> ReasoningOutput:
        if not isinstance(self._open, ReasoningOutput):
            self._close("completed")
            self._open = ReasoningOutput(self._emit, len(self._items), summary=self._summary, encrypted=self._encrypted)
        return self._open

    def _call(self, event: ToolCallDelta) -> None:
        if event.id is not None and event.name is not None:
            self._close("completed")
            tool = self._tools.tools.get(event.name)
            self._open = CallOutput(self._emit, len(self._items), event.id, event.name, tool)
        assert isinstance(self._open, CallOutput), "a call begins with its name"
        self._open.delta(event.arguments)

    def _close(self, status: str) -> None:
        if self._open is not None:
            self._items.append(self._open.close(status))
            self._open = self.message = None
