"""Assertions on the headers of a streamed response and on the end of its body."""

from __future__ import annotations

from tailrace.conformance.dialects import Dialect
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import require
from tailrace.conformance.session import describe, excerpt


def expect_ok(stream: RecordedStream) -> str:
    """A streamed request gets a 200."""
    require(stream.reply.status == 200, describe(stream.reply))
    return "200"


def expect_media_type(stream: RecordedStream, dialect: Dialect) -> str:
    """The content type equals the dialect's, in lower case: clients compare it as text."""
    value = stream.reply.header("content-type")
    require(stream.reply.media_type == dialect.media_type, f"content-type: {value}")
    return str(value)


def expect_uncached(stream: RecordedStream) -> str:
    """Proxies must not cache the stream."""
    value = stream.reply.header("cache-control")
    require("no-cache" in (value or "") or "no-store" in (value or ""), f"cache-control: {value}")
    return str(value)


def expect_unbuffered(stream: RecordedStream) -> str:
    """nginx must not buffer the stream."""
    value = stream.reply.header("x-accel-buffering")
    require(value == "no", f"x-accel-buffering: {value}")
    return str(value)


def expect_uncompressed(stream: RecordedStream) -> str:
    """The body isn't compressed, though the request offered gzip."""
    value = stream.reply.header("content-encoding")
    require(value in (None, "identity"), f"content-encoding: {value}")
    return "none, though gzip was offered"


def expect_one_end(stream: RecordedStream) -> str:
    """The body is chunked, with exactly one terminating chunk and no bytes behind it."""
    reply = stream.reply
    require(not reply.truncated, reply.truncated)
    length = reply.header("content-length")
    require(length is None, f"content-length: {length}")
    require(reply.framing == "chunked", "no chunks: only the closed connection tells the end from a failure")
    require(not reply.trailing, f"behind the terminating chunk: {excerpt(reply.trailing)}")
    return f"{len(reply.chunks)} chunks and one that ends them"


def expect_stream_head(stream: RecordedStream, dialect: Dialect) -> str:
    """The status, the content type, the encoding and the end of a stream: a client fails without each of them."""
    seen = [expect_ok(stream), expect_media_type(stream, dialect), expect_one_end(stream)]
    expect_uncompressed(stream)
    return ", ".join(seen)


def expect_proxy_headers(stream: RecordedStream) -> str:
    """The headers that keep proxies from caching and buffering the stream."""
    return f"{expect_uncached(stream)}, {expect_unbuffered(stream)}"
