"""The tool calls in a chat's reply, in the request's form: functions, custom tools, or the older ``function_call``."""

from __future__ import annotations

from typing import Any

from tailrace.server.collected_reply import ToolCall
from tailrace.server.custom_tools import custom_input
from tailrace.server.dialects.openai.tools import Toolset
from tailrace.server.events import FinishReason, ToolCallDelta


def message_fields(calls: list[ToolCall], tools: Toolset) -> dict[str, Any]:
    """The fields of a complete message with its tool calls; empty without calls."""
    if not calls:
        return {}
    if tools.legacy:
        return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
    return {"tool_calls": [_choice_object(call, tools) for call in calls]}


def finish_reason(reason: FinishReason, tools: Toolset) -> str:
    """The reason as the client knows it."""
    return "function_call" if tools.legacy and reason == "tool_calls" else reason


class CallDeltas:
    """Makes the deltas of one stream's calls."""

    def __init__(self, tools: Toolset) -> None:
        self._tools = tools
        #: Each choice's custom call that is coming in: its input is known when the arguments are whole.
        self._open: dict[int, tuple[int, list[str]]] = {}

    @property
    def has_open_call(self) -> bool:
        """Whether an input waits for its end."""
        return bool(self._open)

    def delta(self, event: ToolCallDelta) -> list[dict[str, Any]]:
        """The deltas that a piece of a call becomes."""
        if self._tools.legacy:
            named = {} if event.name is None else {"name": event.name}
            return [{"function_call": {**named, "arguments": event.arguments}}]
        if event.id is None:
            if event.choice in self._open:
                self._open[event.choice][1].append(event.arguments)
                return []
            return [{"tool_calls": [{"index": event.index, "function": {"arguments": event.arguments}}]}]
        ended = self.end(event.choice)
        call: dict[str, Any] = {"index": event.index, "id": event.id}
        if event.name in self._tools.custom:
            self._open[event.choice] = event.index, [event.arguments]
            call |= {"type": "custom", "custom": {"name": event.name, "input": ""}}
        else:
            call |= {"type": "function", "function": {"name": event.name, "arguments": event.arguments}}
        return [*ended, {"tool_calls": [call]}]

    def end(self, choice: int) -> list[dict[str, Any]]:
        """The rest of the choice's last custom call, before another event."""
        if choice not in self._open:
            return []
        index, arguments = self._open.pop(choice)
        return [{"tool_calls": [{"index": index, "custom": {"input": custom_input("".join(arguments))}}]}]


def _choice_object(call: ToolCall, tools: Toolset) -> dict[str, Any]:
    if call.name in tools.custom:
        custom = {"name": call.name, "input": custom_input(call.arguments)}
        return {"id": call.id, "type": "custom", "custom": custom}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
