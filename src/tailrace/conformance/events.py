"""Parses a streamed body into events, as the WHATWG's rules for server-sent events say.

The parser accepts every form (any line end, an optional space, any field) and keeps the raw bytes. So one oddity of a
stream doesn't hide another from the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailrace.conformance.connection import Response

_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2,}")
_NEWLINE = re.compile(rb"\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class StreamEvent:
    """One block of lines up to a blank line, with all blank lines that follow it."""

    raw: bytes  #: its bytes, blank lines included
    start: int  #: offset in the body
    received_at: float  #: time of its last byte

    @property
    def lines(self) -> list[bytes]:
        """The lines that aren't blank, without their line ends."""
        return [line for line in _LINE_END.split(self.raw) if line]

    def fields(self, name: bytes) -> list[bytes]:
        """The values of all lines of the field ``name``."""
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
        """The joined ``data:`` lines, None for an event without any (a comment)."""
        found = self.fields(b"data")
        return b"\n".join(found).decode("utf-8", "replace") if found else None

    @property
    def object(self) -> dict[str, Any] | None:
        """The data as a JSON object, None for any other data."""
        try:
            value = json.loads(self.data or "")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


class JsonLine(StreamEvent):
    """A line of an NDJSON stream: the whole line is data."""

    @property
    def data(self) -> str | None:
        """The line, None for a blank one."""
        return self.raw.strip().decode("utf-8", "replace") or None


class RecordedStream:
    """A streamed response, parsed into server-sent events, or with ``ndjson`` into lines."""

    def __init__(self, label: str, reply: Response, *, ndjson: bool = False) -> None:
        self.label = label  #: names the request in the report
        self.reply = reply
        kind, separator = (JsonLine, _NEWLINE) if ndjson else (StreamEvent, _BLANK)
        self.events: Sequence[StreamEvent] = _split(reply, kind, separator)
        #: The JSON objects of the events, in order, parsed once.
        self.objects: list[dict[str, Any]] = []
        self.received_at: list[float] = []  #: the time of each object
        self.event_names: list[str | None] = []  #: the ``event:`` field of each object
        for event in self.events:
            if (value := event.object) is not None:
                self.objects.append(value)
                self.received_at.append(event.received_at)
                self.event_names.append(event.name)

    @property
    def done_count(self) -> int:
        """The number of ``[DONE]`` events."""
        return sum(event.data == "[DONE]" for event in self.events)

    @property
    def error(self) -> dict[str, Any] | None:
        """The first object with an error, None without one."""
        return next((value for value in self.objects if "error" in value and value["error"] is not None), None)


def _split(reply: Response, kind: type[StreamEvent], separator: re.Pattern[bytes]) -> list[StreamEvent]:
    body = reply.body
    arrived: list[tuple[int, float]] = []
    position = 0
    for chunk in reply.chunks:
        position += len(chunk.data)
        arrived.append((position, chunk.received_at))
    found: list[StreamEvent] = []
    start = index = 0
    ends = [match.end() for match in separator.finditer(body)]
    if not ends or ends[-1] < len(body):
        ends.append(len(body))  # The last event may lack its blank line.
    for end in ends:
        if start < end:
            while arrived[index][0] < end:
                index += 1
            found.append(kind(body[start:end], start, arrived[index][1]))
        start = end
    return found
