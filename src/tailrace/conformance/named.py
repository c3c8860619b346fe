"""Judgements of streams whose events have names: Anthropic's and Responses'."""

from __future__ import annotations

from tailrace.conformance import judge
from tailrace.conformance.dialects import Json
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import expect


def of(stream: Stream, kind: str) -> list[Json]:
    """The data of the events of that type."""
    return [value for value in stream.objects if value.get("type") == kind]


def form(stream: Stream) -> str:
    """Each event is as line readers take it."""
    judge.line_feeds([stream])
    judge.one_data_line([stream])
    return judge.prefix([stream])


def names(stream: Stream) -> str:
    """Each event's name is the type that its data tells."""
    for name, value in zip(stream.names, stream.objects, strict=True):
        expect(name == value.get("type"), f"event: {name}, type {value.get('type')!r}")
    return f"{len(stream.objects)} events"
