"""The protocol between the reply's parser and the parsers of tool calls."""

from __future__ import annotations

from typing import Protocol

from tailrace.chat.reply_parts import ReplyPart

#: Characters of a function's name, as in requests. A longer name doesn't fit into an event.
MAX_NAME_CHARACTERS = 256


class CallsEnded(Exception):
    """The calls have ended. ``failed`` is text that is no call after all: it is passed on unchanged. ``rest`` is the
    text after the calls. White space before it belongs to the markup, unless a call is ``broken`` there.
    """

    def __init__(self, failed: str = "", rest: str = "", *, broken: bool = False) -> None:
        super().__init__(failed, rest)
        self.failed = failed
        self.rest = rest
        self.broken = broken


class CallParser(Protocol):
    """Parses the text after an opening marker, in any pieces."""

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """Append the parts that ``text`` completes. Raises CallsEnded at the end of the calls."""
        ...

    def finish(self, parts: list[ReplyPart]) -> str:
        """The reply has ended. Returns text that is no call after all."""
        ...


def is_valid_name(name: str) -> bool:
    """Whether a call may have this name."""
    return 0 < len(name) <= MAX_NAME_CHARACTERS
