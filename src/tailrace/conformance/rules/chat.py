"""OpenAI's chat stream: its head and its events. What is in them is in ``chunks``."""

from __future__ import annotations

from tailrace.conformance import judge
from tailrace.conformance.dialects import OPENAI
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import NotSeen, Severity, Theme, expect
from tailrace.conformance.session import Session

THEME = Theme("Chat stream", OPENAI.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: Characters of two, three and four bytes, and one emoji of several code points.
_FOREIGN = "Repeat exactly this line and nothing else: Grüße, 你好世界, こんにちは 🎉🚀 👩‍👩‍👧"


def plain(session: Session) -> Stream:
    """The stream of the plain question."""
    return session.streamed(OPENAI)


def with_usage(session: Session) -> Stream:
    """The stream whose usage was asked for."""
    return session.streamed(OPENAI, "usage", stream_options={"include_usage": True})


def foreign(session: Session) -> Stream:
    """A stream that should have emoji and CJK in it."""
    return session.streamed(OPENAI, "emoji and CJK", _FOREIGN, max_tokens=2 * session.limits.tokens)


def streams(session: Session) -> list[Stream]:
    """All three of them; the plain one has to be there, others may have failed. Raises NotSeen."""
    found = [plain(session)]
    for other in (with_usage, foreign):
        try:
            found.append(other(session))
        except NotSeen:
            pass  # There is a rule that tells it.
    return found


# The head


@rule("stream-status", 6, "a streamed chat is answered with 200", ERROR, "every client")
def stream_status(session: Session) -> str:
    return judge.status(session.stream(OPENAI))


@rule(
    "stream-type",
    6,
    "content-type is text/event-stream, in lower case",
    ERROR,
    "fetch-event-source (NextChat) refuses the stream and shows the raw text",
)
def stream_type(session: Session) -> str:
    return judge.media_type(plain(session), OPENAI)


@rule("stream-cache", 6, "cache-control is no-cache", WARNING, "proxies in between may hold the stream back")
def stream_cache(session: Session) -> str:
    return judge.cache_control(plain(session))


@rule(
    "stream-buffering", 6, "x-accel-buffering is no", WARNING, "nginx gathers the stream: the text comes at once, late"
)
def stream_buffering(session: Session) -> str:
    return judge.buffering(plain(session))


@rule(
    "stream-encoding",
    6,
    "a stream isn't compressed",
    ERROR,
    "compressors hold text back, and readers of lines see none",
)
def stream_encoding(session: Session) -> str:
    return judge.uncompressed(plain(session))


@rule(
    "stream-end",
    6,
    "chunked, no Content-Length, one terminating chunk, nothing behind it",
    ERROR,
    "the client waits for ever, or its next request on the connection fails",
)
def stream_end(session: Session) -> str:
    return judge.end(plain(session))


@rule("header-case", 6, "names of headers are in lower case", NOTE, "scripts that compare them as written")
def header_case(session: Session) -> str:
    names = [name for name, _ in plain(session).reply.headers]
    large = [name for name in names if name != name.lower()]
    expect(not large, ", ".join(large))
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
    return judge.prefix(streams(session))


@rule(
    "line-feeds",
    14,
    "lines end in LF alone, each event in exactly two",
    ERROR,
    "clients that split at two LF show nothing",
)
def line_feeds(session: Session) -> str:
    return judge.line_feeds(streams(session))


@rule(
    "one-data-line", 14, "an event's data is one line of JSON", ERROR, "line readers (one-api, Dify) fail on the parts"
)
def one_data_line(session: Session) -> str:
    return judge.one_data_line(streams(session))


@rule("no-event-lines", 14, "no event:, id: or retry: lines", ERROR, "Dify fails on event:, openai-python after id:")
def no_event_lines(session: Session) -> str:
    return judge.no_other_fields(streams(session))


@rule(
    "one-event-a-write",
    15,
    "one event a write, and never a part of one",
    WARNING,
    "clients that parse each read by itself lose text",
)
def one_event_a_write(session: Session) -> str:
    return judge.one_event_a_write(streams(session))


@rule(
    "utf8", 15, "valid UTF-8, characters never split, no U+FFFD", ERROR, "emoji and CJK arrive broken in every client"
)
def utf8(session: Session) -> str:
    return judge.utf8(streams(session))


@rule("line-length", 16, "a line stays under 60,000 bytes", ERROR, "one-api ends the stream at 64 KiB without a word")
def line_length(session: Session) -> str:
    plain(session)
    return judge.line_length(session.streams)
