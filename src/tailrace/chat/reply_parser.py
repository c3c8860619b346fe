"""Splits a reply's text, as it streams, into text, reasoning and tool calls, by the family's ``Markup``.

A thought stands at the reply's start. Markers may be split anywhere. White space around markup belongs to the markup.
No other text is lost: a call that can't be parsed becomes text. One exception: where a reply ends with the beginning of
one more call, that beginning is dropped. As text it would show markers to the user, beside complete calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, Protocol

from tailrace.chat.marker_search import is_marker_prefix, partial_marker_length
from tailrace.chat.reply_markup import Markup, ThoughtMarkers
from tailrace.chat.reply_parts import CallEnd, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.tool_parsers.base import CallParser, CallsEnded

#: Characters of a prompt's end in which a thought may be opened. A copy of a whole prompt for each reply takes seconds.
PROMPT_END = 65_536


class ReplyParser(Protocol):
    """Parses one reply. (vLLM: a reasoning parser and a tool parser.)"""

    @property
    def passes_all(self) -> bool:
        """Whether all further text is passed on unchanged, as text."""
        ...

    def feed(self, text: str) -> list[ReplyPart]:
        """The parts that ``text`` completes."""
        ...

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """The parts that were held back. ``cut``: the reply has reached its limit, not its own end."""
        ...


def open_thought(prompt: str, thoughts: Iterable[ThoughtMarkers]) -> ThoughtMarkers | None:
    """The thought that the prompt's end has opened; None for none."""
    end = prompt[-PROMPT_END:].rstrip()
    return next((thought for thought in thoughts if end.endswith(thought.start)), None)


class MarkupParser:
    """See the module. The ``prompt`` may have opened a thought."""

    def __init__(self, prompt: str, markup: Markup) -> None:
        self._markup = markup
        self._markers = (*markup.calls, *markup.ignored)
        self._in_text = _any_of(self._markers)
        self._thought = open_thought(prompt, markup.thoughts)
        self._in_thought = self._pattern_in_thought()
        self._opens = tuple(thought.start for thought in markup.thoughts)
        self._buffer = ""
        self._state: Literal["start", "reasoning", "reply", "text", "call"] = (
            "start" if self._thought is None else "reasoning"
        )
        #: White space up to the next text belongs to the markup: drop it.
        self._trim = self._thought is not None
        self._call_parser: CallParser | None = None
        self._called = False  #: a complete call has been parsed

    @property
    def passes_all(self) -> bool:
        """See ``MarkupParser``."""
        return self._state == "text" and not (self._markers or self._trim or self._buffer)

    def feed(self, text: str) -> list[ReplyPart]:
        """See ``MarkupParser``."""
        self._buffer += text
        parts: list[ReplyPart] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """See ``MarkupParser``. Here marks within the text end everything."""
        parts: list[ReplyPart] = []
        if self._call_parser is not None:
            failed = self._call_parser.finish(parts)
            self._call_parser, self._state = None, "text"
            if failed and not self._called:
                self._emit(parts, failed)
        rest, self._buffer = self._buffer, ""
        if not (self._called and self._trim and is_marker_prefix(rest.strip(), self._markers)):
            self._emit(parts, rest)
        return parts

    def _advance(self, parts: list[ReplyPart]) -> bool:
        """Take one step; True where another one may follow."""
        if self._state == "text":
            return self._read_text(parts)
        if self._state == "call":
            return self._read_call(parts)
        if self._state == "reasoning":
            return self._read_thought(parts)
        if self._state == "start":
            return self._start()
        return self._start_reply()

    def _start(self) -> bool:
        stripped = self._buffer.lstrip()
        for thought in self._markup.thoughts:
            if stripped.startswith(thought.start):
                self._buffer = stripped[len(thought.start) :]
                self._thought = thought
                self._in_thought = self._pattern_in_thought()
                self._state, self._trim = "reasoning", True
                return True
        if is_marker_prefix(stripped, self._opens):
            return False  # This may still become a marker.
        self._state = "reply"
        return True

    def _start_reply(self) -> bool:
        bare = self._markup.bare_calls
        if bare:
            stripped = self._buffer.lstrip()
            for marker, make in bare.items():
                if stripped.startswith(marker):
                    self._state, self._call_parser = "call", make()
                    return True
            if is_marker_prefix(stripped, bare):
                return False
        self._state = "text"
        return True

    def _read_text(self, parts: list[ReplyPart]) -> bool:
        if self._in_text is None:
            self._emit(parts, self._buffer)
            self._buffer = ""
            return False
        found = self._in_text.search(self._buffer)
        if found is None:
            self._emit_up_to(parts, self._markers)
            return False
        self._marker(parts, found)
        return True

    def _read_thought(self, parts: list[ReplyPart]) -> bool:
        assert self._thought is not None
        if self._trim:  # At the thought's start. Some models repeat the marker that their template has written.
            stripped = self._buffer.lstrip()
            if stripped.startswith(self._thought.start):
                self._buffer = stripped[len(self._thought.start) :]
                return True
            if is_marker_prefix(stripped, (self._thought.start,)):
                return False
        found = self._in_thought.search(self._buffer)
        if found is None:
            self._emit_up_to(parts, self._thought_markers())
            return False
        if found[0] == self._thought.end:
            self._emit(parts, self._buffer[: found.start()].rstrip())
            self._buffer = self._buffer[found.end() :]
            self._state, self._trim = "reply", True
        else:
            self._marker(parts, found)
        return True

    def _read_call(self, parts: list[ReplyPart]) -> bool:
        assert self._call_parser is not None
        text, self._buffer = self._buffer, ""
        before = len(parts)
        try:
            self._call_parser.feed(text, parts)
        except CallsEnded as over:
            self._called = self._called or _has_complete_call(parts, before)
            self._call_parser, self._state = None, "text"
            self._buffer = over.rest
            self._emit(parts, over.failed)
            self._trim = not (over.failed or over.broken)
            return True
        self._called = self._called or _has_complete_call(parts, before)
        return False

    def _marker(self, parts: list[ReplyPart], found: re.Match[str]) -> None:
        """A call begins, or a marker to be ignored."""
        self._emit(parts, self._buffer[: found.start()].rstrip())
        self._buffer = self._buffer[found.end() :]
        make = self._markup.calls.get(found[0])
        if make is None:
            self._state, self._trim = "text", True
        else:
            self._state, self._call_parser = "call", make()

    def _emit_up_to(self, parts: list[ReplyPart], markers: Iterable[str]) -> None:
        """Emit the buffer, except for a possible beginning of a marker and the white space before it."""
        out = self._buffer[: len(self._buffer) - partial_marker_length(self._buffer, markers)].rstrip()
        self._emit(parts, out)
        self._buffer = self._buffer[len(out) :]

    def _emit(self, parts: list[ReplyPart], text: str) -> None:
        if self._trim:
            text = text.lstrip()
        if text:
            self._trim = False
            parts.append(ReasoningPart(text) if self._state == "reasoning" else TextPart(text))

    def _thought_markers(self) -> tuple[str, ...]:
        assert self._thought is not None
        calls = self._markers if self._markup.calls_end_thoughts else ()
        return (self._thought.end, *calls)

    def _pattern_in_thought(self) -> re.Pattern[str]:
        pattern = _any_of(self._thought_markers()) if self._thought is not None else None
        return pattern if pattern is not None else re.compile("")


def _has_complete_call(parts: list[ReplyPart], start: int) -> bool:
    return any(isinstance(part, CallEnd) for part in parts[start:])


def _any_of(markers: tuple[str, ...]) -> re.Pattern[str] | None:
    if not markers:
        return None
    return re.compile("|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True)))
