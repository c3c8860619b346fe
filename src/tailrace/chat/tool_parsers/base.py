"""What every reader of tool calls offers to the parser of replies."""

from __future__ import annotations

from typing import Protocol

from tailrace.chat.reply_parts import ReplyPart

#: Names of the length that requests may define; a longer one would not fit into an event.
MAX_NAME_CHARACTERS = 256


class CallsEnded(Exception):
    """The calls are over. ``failed`` is text that turned out to be none of a call, and goes out as it is; ``rest`` is
    what stands behind. White space before that belongs to the markup, unless a call has ``broken`` off there.
    """

    def __init__(self, failed: str = "", rest: str = "", *, broken: bool = False) -> None:
        super().__init__(failed, rest)
        self.failed = failed
        self.rest = rest
        self.broken = broken


class CallParser(Protocol):
    """Reads what follows an opening marker, in whatever pieces it comes."""

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """Append the parts that ``text`` completes. Raises CallsEnded where the calls end."""
        ...

    def finish(self, parts: list[ReplyPart]) -> str:
        """The reply is at its end; the text that turned out to be none of a call."""
        ...


def is_valid_name(name: str) -> bool:
    """Whether a call may have this name."""
    return 0 < len(name) <= MAX_NAME_CHARACTERS
