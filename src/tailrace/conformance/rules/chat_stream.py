"""OpenAI's chat stream: its headers, its end and the form of its events. ``chat_chunks`` has the events' JSON."""

from __future__ import annotations

from tailrace.conformance.assertions import sse_events, stream_headers
from tailrace.conformance.dialects import OPENAI
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session

THEME = Theme("Chat stream", OPENAI.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: Asks for characters of two, three and four bytes, and for an emoji of several code points.
_NON_ASCII_PROMPT = "Repeat exactly this line and nothing else: Grüße, 你好世界, こんにちは 🎉🚀 👩‍👩‍👧"


def plain(session: Session) -> RecordedStream:
    """The stream of the plain question."""
    return session.streamed_answer(OPENAI)


def with_usage(session: Session) -> RecordedStream:
    """The stream of a request that asks for usage."""
    return session.streamed_answer(OPENAI, "usage", stream_options={"include_usage": True})


def non_ascii(session: Session) -> RecordedStream:
    """A stream that should contain emoji and CJK characters."""
    return session.streamed_answer(OPENAI, "emoji and CJK", _NON_ASCII_PROMPT, max_tokens=2 * session.limits.max_tokens)


def streams(session: Session) -> list[RecordedStream]:
    """All three streams; only the plain one is required. Raises NotObserved without it."""
    found = [plain(session)]
    for other in (with_usage, non_ascii):
        try:
            found.append(other(session))
        except NotObserved:
            pass  # Another rule reports it.
    return found


# The head


@rule("stream-status", 6, "a streamed chat is answered with 200", ERROR, "every client")
def stream_status(session: Session) -> str:
    return stream_headers.expect_ok(session.stream_response(OPENAI))


@rule(
    "stream-type",
    6,
    "content-type is text/event-stream, in lower case",
    ERROR,
    "fetch-event-source (NextChat) refuses the stream and shows the raw text",
)
def stream_type(session: Session) -> str:
    return stream_headers.expect_media_type(plain(session), OPENAI)


@rule("stream-cache", 6, "cache-control is no-cache", WARNING, "proxies in between may hold the stream back")
def stream_cache(session: Session) -> str:
    return stream_headers.expect_uncached(plain(session))


@rule(
    "stream-buffering", 6, "x-accel-buffering is no", WARNING, "nginx gathers the stream: the text comes at once, late"
)
def stream_buffering(session: Session) -> str:
    return stream_headers.expect_unbuffered(plain(session))


@rule(
    "stream-encoding",
    6,
    "a stream isn't compressed",
    ERROR,
    "compressors hold text back, and readers of lines see none",
)
def stream_encoding(session: Session) -> str:
    return stream_headers.expect_uncompressed(plain(session))


@rule(
    "stream-end",
    6,
    "chunked, no Content-Length, one terminating chunk, nothing behind it",
    ERROR,
    "the client waits for ever, or its next request on the connection fails",
)
def stream_end(session: Session) -> str:
    return stream_headers.expect_one_end(plain(session))


@rule("header-case", 6, "names of headers are in lower case", NOTE, "scripts that compare them as written")
def header_case(session: Session) -> str:
    names = [name for name, _ in plain(session).reply.headers]
    large = [name for name in names if name != name.lower()]
    require(not large, ", ".join(large))
    return f"{len(names)} headers"


# Events


@rule(
    "data-prefix",
    14,
    "each data line begins with the six bytes 'data: '",
    ERROR,
    "one-api drops other lines: an answer without text",
)
def data_prefix(session: Session) -> str:
    return sse_events.expect_data_prefix(streams(session))


@rule(
    "line-feeds",
    14,
    "lines end in LF alone, each event in exactly two",
    ERROR,
    "clients that split at two LF show nothing",
)
def line_feeds(session: Session) -> str:
    return sse_events.expect_line_feeds(streams(session))


@rule(
    "one-data-line", 14, "an event's data is one line of JSON", ERROR, "line readers (one-api, Dify) fail on the parts"
)
def one_data_line(session: Session) -> str:
    return sse_events.expect_one_data_line(streams(session))


@rule("no-event-lines", 14, "no event:, id: or retry: lines", ERROR, "Dify fails on event:, openai-python after id:")
def no_event_lines(session: Session) -> str:
    return sse_events.expect_only_data_fields(streams(session))


@rule(
    "one-event-a-write",
    15,
    "one event a write, and never a part of one",
    WARNING,
    "clients that parse each read by itself lose text",
)
def one_event_a_write(session: Session) -> str:
    return sse_events.expect_one_event_per_write(streams(session))


@rule(
    "utf8", 15, "valid UTF-8, characters never split, no U+FFFD", ERROR, "emoji and CJK arrive broken in every client"
)
def utf8(session: Session) -> str:
    return sse_events.expect_utf8(streams(session))


@rule("line-length", 16, "a line stays under 60,000 bytes", ERROR, "one-api ends the stream at 64 KiB without a word")
def line_length(session: Session) -> str:
    plain(session)
    return sse_events.expect_short_lines(session.streams)
