"""The head of a request: its max size, its target, and the same head without an offer to upgrade.

It knows no connection.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

import httptools

from tailrace.errors import InvalidRequest

#: Max bytes of request line and headers together: enough for the cookies of a company's other tools.
MAX_HEAD = 65_536


def head_too_large() -> InvalidRequest:
    """The refusal of a head over ``MAX_HEAD``; its status is 431."""
    return InvalidRequest(f"The request's line and headers are over {MAX_HEAD} bytes.", code="headers_too_large")


def with_path(url: bytes) -> bytes:
    """A request's target with the path that ``http://host`` and ``http://host?query`` leave out (RFC 9110, 7.1)."""
    parsed = httptools.parse_url(url)
    if not parsed.schema or parsed.path:
        return url
    return b"/?" + parsed.query if parsed.query else b"/"


def target_fields(url: bytes) -> dict[str, str | bytes]:
    """The fields of an ASGI scope that a request's target gives."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return {
        "path": urllib.parse.unquote(path) if "%" in path else path,
        "raw_path": parsed.path,
        "query_string": parsed.query or b"",
    }


def head_without_upgrade(method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head with these parts, as bytes, without an offer to upgrade."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() != b"upgrade")
        if name != b"upgrade":
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])
