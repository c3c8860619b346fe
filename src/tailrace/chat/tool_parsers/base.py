"""What every reader of tool calls offers to the parser of replies."""

from __future__ import annotations

from typing import Protocol

from tailrace.chat.reply_parts import Part

#: Names of the length that requests may define; a longer one would not fit into an event.
LONGEST_NAME = 256


class Over(Exception):
    """The calls are over. ``failed`` is text that turned out to be none of a call, and goes out as it is; ``rest`` is
    what stands behind. White space before that belongs to the markup, unless a call has ``broken`` off there.
    """

    def __init__(self, failed: str = "", rest: str = "", *, broken: bool = False) -> None:
        super().__init__(failed, rest)
        self.failed = failed
        self.rest = rest
        self.broken = broken


class Reader(Protocol):
    """Reads what follows an opening marker, in whatever pieces it comes."""

    def feed(self, text: str, parts: list[Part]) -> None:
        """Append the parts that ``text`` completes. Raises Over where the calls end."""
        ...

    def finish(self, parts: list[Part]) -> str:
        """The reply is at its end; the text that turned out to be none of a call."""
        ...


def fits(name: str) -> bool:
    """Whether a call may have this name."""
    return 0 < len(name) <= LONGEST_NAME
