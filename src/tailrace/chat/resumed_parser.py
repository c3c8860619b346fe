"""The parser of a reply that goes on where a prompt has begun it.

The beginning is fed to the parser, so that it knows whether a thought or a call is open. What that says is the client's
own and isn't told again, but for a call that isn't whole: without its beginning the rest would be no JSON.
"""

from __future__ import annotations

from collections.abc import Callable

from tailrace.chat.reply_parser import ReplyParser
from tailrace.chat.reply_parts import CallEnd, CallStart, ReasoningPart, ReplyPart, TextPart


class ResumedParser:
    """See the module."""

    def __init__(self, make: Callable[[], ReplyParser], begun: str) -> None:
        """``make`` makes a parser of the whole reply, which begins with ``begun``."""
        self._parser = make()
        self._call = _open_call(self._parser.feed(begun))
        #: What the parser has held back of the beginning, and gives out with the text that follows.
        self._held = "" if self._call else _held(make(), begun)

    @property
    def passes_all(self) -> bool:
        """See ``ReplyParser``."""
        return not (self._call or self._held) and self._parser.passes_all

    def feed(self, text: str) -> list[ReplyPart]:
        """See ``ReplyParser``."""
        return self._new(self._parser.feed(text))

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """See ``ReplyParser``."""
        return self._new(self._parser.finish(cut=cut))

    def _new(self, parts: list[ReplyPart]) -> list[ReplyPart]:
        if not parts:
            return parts
        if self._call:
            parts, self._call = [*self._call, *parts], []
        if not self._held:
            return parts
        told: list[ReplyPart] = []
        for part in parts:
            if not self._held or not isinstance(part, TextPart | ReasoningPart):
                self._held = ""
                told.append(part)
                continue
            shared = _shared(part.text, self._held)
            self._held = self._held[shared:] if shared == len(part.text) else ""
            if rest := part.text[shared:]:
                told.append(type(part)(rest))
        return told


def _open_call(parts: list[ReplyPart]) -> list[ReplyPart]:
    """The parts of a call that has begun and isn't whole; empty where there is none."""
    start = next((i for i in reversed(range(len(parts))) if isinstance(parts[i], CallStart)), None)
    if start is None or any(isinstance(part, CallEnd | TextPart) for part in parts[start:]):
        return []
    return parts[start:]


def _held(parser: ReplyParser, begun: str) -> str:
    parser.feed(begun)
    return "".join(part.text for part in parser.finish() if isinstance(part, TextPart | ReasoningPart))


def _shared(left: str, right: str) -> int:
    """How many characters both begin with."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
