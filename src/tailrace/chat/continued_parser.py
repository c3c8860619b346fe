"""Parses a reply whose beginning the prompt already has.

The parser reads that beginning first, so it knows whether a thought or a call is open. The beginning is the client's
own text and isn't repeated, except for an incomplete call: without its beginning the rest would be no JSON.
"""

from __future__ import annotations

from collections.abc import Callable

from tailrace.chat.reply_parser import ReplyParser
from tailrace.chat.reply_parts import CallEnd, CallStart, ReasoningPart, ReplyPart, TextPart


class ResumedParser:
    """See the module."""

    def __init__(self, make: Callable[[], ReplyParser], reply_start: str) -> None:
        """``make`` makes a parser of the whole reply. ``reply_start`` is its beginning."""
        self._parser = make()
        self._call = _open_call(self._parser.feed(reply_start))
        #: The end of the beginning, which the parser has held back and emits with the text that follows.
        self._held = "" if self._call else _held_back(make(), reply_start)

    @property
    def passes_all(self) -> bool:
        """See ``ReplyParser``."""
        return not (self._call or self._held) and self._parser.passes_all

    def feed(self, text: str) -> list[ReplyPart]:
        """See ``ReplyParser``."""
        return self._without_start(self._parser.feed(text))

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """See ``ReplyParser``."""
        return self._without_start(self._parser.finish(cut=cut))

    def _without_start(self, parts: list[ReplyPart]) -> list[ReplyPart]:
        if not parts:
            return parts
        if self._call:
            parts, self._call = [*self._call, *parts], []
        if not self._held:
            return parts
        new: list[ReplyPart] = []
        for part in parts:
            if not self._held or not isinstance(part, TextPart | ReasoningPart):
                self._held = ""
                new.append(part)
                continue
            shared = _common_prefix(part.text, self._held)
            self._held = self._held[shared:] if shared == len(part.text) else ""
            if rest := part.text[shared:]:
                new.append(type(part)(rest))
        return new


def _open_call(parts: list[ReplyPart]) -> list[ReplyPart]:
    """The parts of a call that is still open; empty for none."""
    start = next((i for i in reversed(range(len(parts))) if isinstance(parts[i], CallStart)), None)
    if start is None or any(isinstance(part, CallEnd | TextPart) for part in parts[start:]):
        return []
    return parts[start:]


def _held_back(parser: ReplyParser, reply_start: str) -> str:
    parser.feed(reply_start)
    return "".join(part.text for part in parser.finish() if isinstance(part, TextPart | ReasoningPart))


def _common_prefix(left: str, right: str) -> int:
    """The length of the common prefix."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
