"""The head of a request: its target, and the same head without an offer to upgrade. It knows no connection."""

from __future__ import annotations

from collections.abc import Sequence

import httptools


def with_path(url: bytes) -> bytes:
    """A request's target with the path that ``http://host`` and ``http://host?query`` leave out (RFC 9110, 7.1)."""
    parsed = httptools.parse_url(url)
    if not parsed.schema or parsed.path:
        return url
    return b"/?" + parsed.query if parsed.query else b"/"


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
