"""Parses one call: the function's name, followed by the arguments as a JSON object."""

from __future__ import annotations

import re

from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReplyPart
from tailrace.chat.tool_parsers.base import CallsEnded, is_valid_name
from tailrace.chat.tool_parsers.json_scanner import JsonScanner

#: Characters before the arguments.
_MAX_HEAD = 1024


class NamedCallParser:
    """See the module. A call without a valid name becomes text."""

    def __init__(self, opening: str, head: re.Pattern[str], end: str | None, *, closing: str = "") -> None:
        """``opening`` is the marker before the call. ``head`` matches the text between it and the arguments, and its
        group ``name`` the name. ``closing`` may follow the arguments, and ``end`` may follow that.
        """
        self._opening = opening
        self._head = head
        self._ends = tuple(marker for marker in (closing + (end or ""), end) if marker)
        self._end = end
        self._buffer = ""
        self._arguments: JsonScanner | None = None
        self._called = False

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """See ``CallParser``."""
        if not self._called and self._arguments is None:
            self._buffer += text
            text = self._in_head(parts)
        if self._arguments is not None and text:
            taken, text = self._arguments.feed(text)
            if taken:
                parts.append(CallArguments(taken))
            if self._arguments.broken:
                raise CallsEnded(rest=text, broken=True)
            if self._arguments.done:
                self._arguments, self._called = None, True
                parts.append(CallEnd())
                if not self._ends:
                    raise CallsEnded(rest=text)
        if self._called:
            self._after_arguments(text)

    def finish(self, parts: list[ReplyPart]) -> str:
        """See ``CallParser``."""
        if self._arguments is not None:
            if self._arguments.held:
                parts.append(CallArguments(self._arguments.held))
            return ""
        return "" if self._called else self._opening + self._buffer

    def _in_head(self, parts: list[ReplyPart]) -> str:
        """The text after the head, once the head is complete."""
        brace = self._buffer.find("{")
        end = self._buffer.find(self._end) if self._end else -1
        if end >= 0 and (brace < 0 or end < brace):
            # A function without parameters, perhaps.
            name = self._name(self._buffer[:end])
            rest = self._buffer[end + len(self._end or "") :]
            if name is None:
                raise CallsEnded(failed=self._opening + self._buffer[:end] + (self._end or ""), rest=rest)
            parts += [CallStart(name), CallArguments("{}"), CallEnd()]
            raise CallsEnded(rest=rest)
        if brace > _MAX_HEAD or (brace < 0 and len(self._buffer) > _MAX_HEAD + len(self._end or "")):
            raise CallsEnded(failed=self._opening + self._buffer[:_MAX_HEAD], rest=self._buffer[_MAX_HEAD:])
        if brace < 0:
            return ""
        name = self._name(self._buffer[:brace])
        if name is None:
            raise CallsEnded(failed=self._opening + self._buffer[:brace], rest=self._buffer[brace:])
        parts.append(CallStart(name))
        self._arguments = JsonScanner()
        rest, self._buffer = self._buffer[brace:], ""
        return rest

    def _name(self, head: str) -> str | None:
        found = self._head.fullmatch(head)
        return found["name"] if found is not None and is_valid_name(found["name"]) else None

    def _after_arguments(self, text: str) -> None:
        """Wait for the end marker. It is missing where other text comes."""
        self._buffer += text
        rest = self._buffer.lstrip()
        for marker in self._ends:
            if rest.startswith(marker):
                raise CallsEnded(rest=rest[len(marker) :])
        if rest and not any(marker.startswith(rest) for marker in self._ends):
            raise CallsEnded(rest=rest)
