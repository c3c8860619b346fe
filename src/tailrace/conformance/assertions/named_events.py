"""Assertions on streams with named events: Anthropic's and Responses'."""

from __future__ import annotations

from tailrace.conformance.assertions import sse_events
from tailrace.conformance.dialects import Json
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import require


def of_type(stream: RecordedStream, kind: str) -> list[Json]:
    """The data of the events of that type."""
    return [value for value in stream.objects if value.get("type") == kind]


def expect_form(stream: RecordedStream) -> str:
    """Each event has the form that line-based readers need."""
    sse_events.expect_line_feeds([stream])
    sse_events.expect_one_data_line([stream])
    return sse_events.expect_data_prefix([stream])


def expect_names_match(stream: RecordedStream) -> str:
    """Each event's name equals the ``type`` of its data."""
    for name, value in zip(stream.event_names, stream.objects, strict=True):
        require(name == value.get("type"), f"event: {name}, type {value.get('type')!r}")
    return f"{len(stream.objects)} events"
