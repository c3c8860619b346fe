"""Newline-delimited JSON, exactly as the strictest client reads it.

One object a line and no empty line: ollama-python and Open WebUI hand every line to their JSON parser.
"""

from __future__ import annotations

import msgspec

MEDIA_TYPE = "application/x-ndjson"

HEADERS = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def line(value: object) -> bytes:
    """One line around anything that msgspec encodes."""
    return msgspec.json.encode(value) + b"\n"
