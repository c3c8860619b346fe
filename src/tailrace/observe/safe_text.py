"""Makes text that clients may have chosen safe for a log and a terminal: one line, and no control sequences."""

from __future__ import annotations

import re

#: Control characters, line separators, and the marks that change a line's direction (they can hide text in a terminal).
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
#: The same without the line feed.
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))

#: The longest value that a line has, in characters.
MAX_VALUE = 2000


def one_line(text: str) -> str:
    """The text with such characters as escapes, and shortened where it is very long."""
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}… ({len(text)} characters)"
    return _UNSAFE.sub(_escape, text) if not text.isprintable() else text


def lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback."""
    return _UNSAFE_IN_LINES.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    named = {10: r"\n", 13: r"\r", 9: r"\t", 27: r"\x1b"}
    return named.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
