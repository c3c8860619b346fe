"""Assertions on the bytes of server-sent events: lines, chunks of the transfer encoding, UTF-8, ``[DONE]``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, RuleBroken, require
from tailrace.conformance.session import excerpt

#: In bytes. one-api's scanner ends a stream at a line of 64 KiB; the prefix and the line's end count, too.
LONGEST_LINE = 60_000


def expect_data_prefix(streams: Sequence[RecordedStream]) -> str:
    """Every data line begins with the six bytes ``data: ``."""
    lines = 0
    for stream in streams:
        for line in _lines(stream):
            if line.startswith(b"data"):
                require(line.startswith(b"data: "), excerpt(line))
                lines += 1
    return f"{lines} lines begin with 'data: '"


def expect_line_feeds(streams: Sequence[RecordedStream]) -> str:
    """Every line ends in a single LF, every event in two."""
    for stream in streams:
        for event in stream.events:
            require(b"\r" not in event.raw, f"a carriage return: {excerpt(event.raw)}")
            require(event.raw.endswith(b"\n\n"), f"no blank line behind {excerpt(event.raw)}")
            require(not event.raw.endswith(b"\n\n\n"), f"a blank line too many behind {excerpt(event.raw)}")
    return f"{sum(len(stream.events) for stream in streams)} events end in two LF"


def expect_one_data_line(streams: Sequence[RecordedStream]) -> str:
    """Each event's data is one line: a JSON object or ``[DONE]``."""
    count = 0
    for stream in streams:
        for event in stream.events:
            data = event.fields(b"data")
            if not data:
                continue
            require(len(data) == 1, f"an event of {len(data)} data lines: {excerpt(event.raw)}")
            require(event.object is not None or event.data == "[DONE]", f"no JSON object: {excerpt(event.raw)}")
            count += 1
    return f"{count} events of one line of JSON"


def expect_only_data_fields(streams: Sequence[RecordedStream]) -> str:
    """Events have ``data`` fields alone. (Comments have a separate rule.)"""
    for stream in streams:
        for line in _lines(stream):
            require(line.startswith((b"data", b":")), f"a line {excerpt(line)}")
    return "no event:, id: or retry: line"


def expect_one_event_per_write(streams: Sequence[RecordedStream]) -> str:
    """Each chunk of the transfer encoding is exactly one event."""
    count = 0
    for stream in streams:
        if stream.reply.framing != "chunked":
            continue
        position = 0
        starts = {event.start for event in stream.events}
        for chunk in stream.reply.chunks:
            if position not in starts:
                raise RuleBroken(f"a chunk begins within an event: {excerpt(chunk.data)}")
            inside = sum(position <= start < position + len(chunk.data) for start in starts)
            require(inside == 1, f"{inside} events in one chunk: {excerpt(chunk.data)}")
            position += len(chunk.data)
            count += 1
    if not count:
        raise NotObserved("the body isn't chunked, so writes can't be told apart")
    return f"{count} chunks, each one event"


def expect_short_lines(streams: Sequence[RecordedStream]) -> str:
    """Every line is shorter than LONGEST_LINE."""
    longest = max((len(line) for stream in streams for line in _lines(stream)), default=0)
    require(longest < LONGEST_LINE, f"a line of {longest} bytes")
    return f"the longest of all streams here has {longest} bytes"


def expect_utf8(streams: Sequence[RecordedStream]) -> str:
    """Every event is valid UTF-8 by itself, and so are the strings of its JSON; none has U+FFFD."""
    non_ascii = 0
    for stream in streams:
        for event in stream.events:
            try:
                event.raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise RuleBroken(f"{error.reason} in {excerpt(event.raw)}") from None
            for text in _strings(event.object):
                require("�" not in text, f"U+FFFD in {excerpt(event.raw)}")
                require(
                    not any("\ud800" <= letter <= "\udfff" for letter in text), f"half a pair: {excerpt(event.raw)}"
                )
                non_ascii += sum(letter > "\x7f" for letter in text)
    if not non_ascii:
        raise NotObserved("the model wrote no character outside of ASCII")
    return f"{non_ascii} characters outside of ASCII, all whole"


def expect_one_done(streams: Sequence[RecordedStream]) -> str:
    """Each successful stream has exactly one ``[DONE]``, as its last event."""
    for stream in streams:
        if stream.error is not None:
            continue  # A failed stream has no [DONE]; see ``chunk_fields.expect_error_chunk``.
        require(stream.done_count == 1, f"{stream.done_count} times [DONE] ({stream.label})")
        require(stream.events[-1].data == "[DONE]", f"behind [DONE]: {excerpt(stream.events[-1].raw)}")
    return "one, at the end"


def _lines(stream: RecordedStream) -> list[bytes]:
    return [line for event in stream.events for line in event.lines]


def _strings(value: Any) -> Iterable[str]:
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, list):
            stack += part
