"""Server-sent events, exactly as the strictest client reads them.

``data: `` (six bytes: one-api drops a line that begins otherwise), one line of JSON, two line feeds. No ``event:``,
``id:`` or ``retry:`` line in OpenAI's older dialects; where a dialect names its events, the name's line comes first.
"""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(data: bytes) -> bytes:
    """One event around one line of JSON."""
    return b"data: " + data + b"\n\n"


def named(name: str, data: bytes) -> bytes:
    """The same for a dialect whose events have names."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
