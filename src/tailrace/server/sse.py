"""Server-sent events, exactly as the strictest client reads them.

``data: `` (six bytes: one-api drops a line that begins otherwise), one line of JSON, two line feeds. No ``event:``,
``id:`` or ``retry:`` line in OpenAI's dialects.
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
