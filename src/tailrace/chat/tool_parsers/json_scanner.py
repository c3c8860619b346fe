"""Scans one JSON value in pieces of text: finds its end, and checks that it is JSON (RFC 8259).

Models write line breaks and other control characters into strings: they are escaped.
"""

from __future__ import annotations

import json
import re
from typing import Literal

#: Deeper values count as no JSON: decoders would fail on them.
_MAX_DEPTH = 256
_SPACE = re.compile(r"[ \t\n\r]*")
_UNESCAPED = re.compile(r'[^"\\\x00-\x1f]*')
_LITERAL_BEGINS = "-0123456789tfn"
_LITERAL = re.compile(r"[-+.0-9A-Za-z]*")
_WHOLE_LITERAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
#: A complete escape in a string. A low surrogate follows a high one.
_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u(?:[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
_MAX_ESCAPE = 12

_State = Literal["value", "first key", "key", "colon", "first item", "next", "string", "escape", "literal"]


class JsonScanner:
    """One value. ``done``: it has ended. ``broken``: it is no JSON."""

    __slots__ = ("_literal", "_stack", "_state", "_string_is_key", "broken", "done", "held")

    def __init__(self, *, within: bool = False) -> None:
        """With ``within`` the text continues after a member's value in an object."""
        self._stack: list[str] = ["{"] if within else []
        self._state: _State = "next" if within else "value"
        self._string_is_key = False
        self._literal = ""  #: an incomplete number or word
        self.held = ""  #: an incomplete escape, which is held back
        self.done = False
        self.broken = False

    def feed(self, text: str) -> tuple[str, str]:
        """The part of ``text`` that belongs to the value, and the rest once the value is done or broken."""
        out: list[str] = []
        position = 0
        while position < len(text) and not (self.done or self.broken):
            position = self._step(text, position, out)
        if self.broken and self.held:
            held, self.held = self.held, ""
            return "".join(out), held + text[position:]
        return "".join(out), text[position:]

    def _step(self, text: str, position: int, out: list[str]) -> int:
        """Take the next piece of syntax. Returns the position after it."""
        if self._state == "string":
            return self._in_string(text, position, out)
        if self._state == "escape":
            return self._in_escape(text, position, out)
        if self._state == "literal":
            end = _end(_LITERAL, text, position)
            self._literal += text[position:end]
            out.append(text[position:end])
            if end < len(text):
                self._end_literal()
            return end
        end = _end(_SPACE, text, position)
        out.append(text[position:end])
        if end == len(text):
            return end
        character = text[end]
        if self._state in ("value", "first item") and character in _LITERAL_BEGINS:
            self._state, self._literal = "literal", ""
            return end
        if not self._structure(character):
            self.broken = True
            return end
        out.append(character)
        return end + 1

    def _structure(self, character: str) -> bool:
        """Take a character outside of strings and literals; False where it is not allowed."""
        state = self._state
        if state == "first item" and character != "]":
            state = "value"
        if state == "value":
            return self._begin_value(character)
        if state in ("first key", "key") and character == '"':
            self._state, self._string_is_key = "string", True
            return True
        if state == "colon":
            self._state = "value"
            return character == ":"
        if state == "next" and character == ",":
            self._state = "key" if self._stack[-1] == "{" else "value"
            return True
        closes = "}" if self._stack[-1] == "{" else "]"
        if state in ("first key", "first item", "next") and character == closes:
            self._stack.pop()
            self._end_value()
            return True
        return False

    def _begin_value(self, character: str) -> bool:
        if character in "{[":
            self._stack.append(character)
            self._state = "first key" if character == "{" else "first item"
            return len(self._stack) <= _MAX_DEPTH
        if character == '"':
            self._state, self._string_is_key = "string", False
            return True
        return False

    def _end_value(self) -> None:
        self._state = "next"
        self.done = not self._stack

    def _in_string(self, text: str, position: int, out: list[str]) -> int:
        end = _end(_UNESCAPED, text, position)
        out.append(text[position:end])
        if end == len(text):
            return end
        character = text[end]
        if character == "\\":
            self._state = "escape"
            return end
        if character == '"':
            out.append(character)
            if self._string_is_key:
                self._state = "colon"
            else:
                self._end_value()
        else:
            out.append(json.dumps(character)[1:-1])
        return end + 1

    def _in_escape(self, text: str, position: int, out: list[str]) -> int:
        """Emit an escape once it is complete."""
        self.held += text[position]
        if _ESCAPE.fullmatch(self.held):
            out.append(self.held)
            self.held = ""
            self._state = "string"
        elif len(self.held) == _MAX_ESCAPE or (len(self.held) == 2 and self.held[1] not in '"\\/bfnrtu'):
            self.broken = True
        return position + 1

    def _end_literal(self) -> None:
        if _WHOLE_LITERAL.fullmatch(self._literal):
            self._end_value()
        else:
            self.broken = True


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    assert found is not None  # The patterns also match the empty text.
    return found.end()
