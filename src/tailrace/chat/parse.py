"""A reply's text, split as it streams into text, reasoning and tool calls.

Two markups are understood, which most open models share: ``<think>...</think>`` at the start of a reply (Qwen 3,
DeepSeek R1, ...), and Hermes' ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` (Qwen 2.5 and 3, Hermes, and
SmolLM's larger sisters). Tags may be split anywhere. A tool call that isn't valid is passed on as text: nothing is
lost.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

_THINK = "<think>"
#: What ends a thought.
THINK_END = "</think>"
_TOOL = "<tool_call>"
_TOOL_END = "</tool_call>"
#: A prompt whose template has opened the reasoning itself.
_OPENED = re.compile(r"<think>\s*$")


def thinks(prompt: str) -> bool:
    """Whether the reply to this prompt begins within a thought."""
    return _OPENED.search(prompt) is not None


class Text(msgspec.Struct, frozen=True):
    """A piece of the visible reply."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """A piece of what the model thinks before it replies."""

    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """One whole call; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str


Part = Text | Reasoning | ToolCall


class _Call(msgspec.Struct):
    # Names of the length that requests may define; a longer one would not fit into an event.
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: dict[str, object] = {}


class ReplyParser:
    """Splits one reply. ``prompt`` tells whether the template opened ``<think>``; ``tools`` whether calls may come."""

    def __init__(self, prompt: str, *, tools: bool) -> None:
        self._tools = tools
        self._buffer = ""
        self._state = "reasoning" if thinks(prompt) else "start"
        #: Drop white space until the next text: it belongs to the markup.
        self._trim = self._state == "reasoning"

    @property
    def passes_all(self) -> bool:
        """Whether any text that is fed from now on is text, as it is: no tag can come any more."""
        return self._state == "text" and not (self._tools or self._trim or self._buffer)

    def feed(self, text: str) -> list[Part]:
        """The parts that ``text`` completes."""
        self._buffer += text
        parts: list[Part] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """What was held back, as what it then is."""
        parts: list[Part] = []
        rest, self._buffer = self._buffer, ""
        if self._state == "tool":
            rest = _TOOL + rest
        self._emit(parts, rest)
        return parts

    def _advance(self, parts: list[Part]) -> bool:
        """Take one step; True when there may be another."""
        if self._state == "start":
            stripped = self._buffer.lstrip()
            if stripped.startswith(_THINK):
                self._buffer = stripped[len(_THINK) :]
                self._state, self._trim = "reasoning", True
                return True
            if _THINK.startswith(stripped):
                return False  # Still possibly the beginning of the tag.
            self._state = "text"
            return True
        if self._state == "reasoning":
            return self._until(parts, THINK_END, "text")
        if self._state == "text":
            if self._tools:
                return self._until(parts, _TOOL, "tool")
            self._emit(parts, self._buffer)
            self._buffer = ""
            return False
        end = self._buffer.find(_TOOL_END)
        if end < 0:
            return False
        self._call(parts, self._buffer[:end])
        self._buffer = self._buffer[end + len(_TOOL_END) :]
        self._state, self._trim = "text", True
        return True

    def _until(self, parts: list[Part], tag: str, after: str) -> bool:
        """Let out what stands before ``tag``, keeping what may be its beginning and the white space before that."""
        position = self._buffer.find(tag)
        if position >= 0:
            self._emit(parts, self._buffer[:position].rstrip())
            self._buffer = self._buffer[position + len(tag) :]
            self._state, self._trim = after, True
            return True
        keep = next((n for n in range(len(tag) - 1, 0, -1) if self._buffer.endswith(tag[:n])), 0)
        out = self._buffer[: len(self._buffer) - keep].rstrip()
        self._emit(parts, out)
        self._buffer = self._buffer[len(out) :]
        return False

    def _emit(self, parts: list[Part], text: str) -> None:
        if self._trim:
            text = text.lstrip()
        if text:
            self._trim = False
            parts.append(Reasoning(text) if self._state == "reasoning" else Text(text))

    def _call(self, parts: list[Part], body: str) -> None:
        try:
            call = msgspec.json.decode(body, type=_Call)
        except (msgspec.DecodeError, RecursionError):
            self._emit(parts, _TOOL + body + _TOOL_END)
            return
        parts.append(ToolCall(call.name, msgspec.json.encode(call.arguments).decode()))
