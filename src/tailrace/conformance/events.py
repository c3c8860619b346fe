"""An event stream taken apart, by someone who forgives everything and remembers where it was odd.

Read as the WHATWG's rules say, so that a rule that looks at one oddity isn't blinded by another: any line end, an
optional space, any field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailrace.conformance.connection import Reply

_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2,}")
_NEWLINE = re.compile(rb"\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Event:
    """One block of lines up to a blank one, and all blank ones behind it."""

    raw: bytes  #: with the blank lines
    start: int  #: offset in the body
    at: float  #: when its last byte came

    @property
    def lines(self) -> list[bytes]:
        """Its lines, without their ends."""
        return [line for line in _LINE_END.split(self.raw) if line]

    def fields(self, name: bytes) -> list[bytes]:
        """The values of its lines of that field."""
        found = []
        for line in self.lines:
            field, colon, value = line.partition(b":")
            if colon and field == name:
                found.append(value.removeprefix(b" "))
        return found

    @property
    def name(self) -> str | None:
        """The ``event:`` line's value."""
        found = self.fields(b"event")
        return found[-1].decode("utf-8", "replace") if found else None

    @property
    def data(self) -> str | None:
        """The data, None when it has none (a comment)."""
        found = self.fields(b"data")
        return b"\n".join(found).decode("utf-8", "replace") if found else None

    @property
    def object(self) -> dict[str, Any] | None:
        """The data as a JSON object, None when it is none."""
        try:
            value = json.loads(self.data or "")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


class Line(Event):
    """A line of a stream that is JSON line by line: all of it is data."""

    @property
    def data(self) -> str | None:
        """The line, None when there is nothing in it."""
        return self.raw.strip().decode("utf-8", "replace") or None


class Stream:
    """A streamed reply's events, or its lines."""

    def __init__(self, label: str, reply: Reply, *, lines: bool = False) -> None:
        self.label = label  #: what was asked, for the report
        self.reply = reply
        self.events: Sequence[Event] = _split(reply, Line, _NEWLINE) if lines else _split(reply, Event, _BLANK)
        #: The JSON objects, in order. (The list, not the events: parsing is done once.)
        self.objects: list[dict[str, Any]] = []
        self.times: list[float] = []  #: when each of them came
        self.names: list[str | None] = []  #: the name of each one's event
        for event in self.events:
            if (value := event.object) is not None:
                self.objects.append(value)
                self.times.append(event.at)
                self.names.append(event.name)

    @property
    def done(self) -> int:
        """How many ``[DONE]`` it had."""
        return sum(event.data == "[DONE]" for event in self.events)

    @property
    def failed(self) -> dict[str, Any] | None:
        """The event that told an error, if there was one."""
        return next((value for value in self.objects if "error" in value and value["error"] is not None), None)


def _split(reply: Reply, kind: type[Event], end_mark: re.Pattern[bytes]) -> list[Event]:
    body = reply.body
    arrived: list[tuple[int, float]] = []
    position = 0
    for chunk in reply.chunks:
        position += len(chunk.data)
        arrived.append((position, chunk.at))
    found: list[Event] = []
    start = index = 0
    ends = [match.end() for match in end_mark.finditer(body)]
    if not ends or ends[-1] < len(body):
        ends.append(len(body))  # What never got its blank line.
    for end in ends:
        if start < end:
            while arrived[index][0] < end:
                index += 1
            found.append(kind(body[start:end], start, arrived[index][1]))
        start = end
    return found
