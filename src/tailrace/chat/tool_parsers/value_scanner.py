"""Follows one argument's value through pieces of text: which text belongs to it, and where it ends.

A value that is a JSON object or list may have its end tag in a string. Some models leave the end tag out: then the
value ends before the next argument that the function knows, or where the call itself ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from tailrace.chat.argument_types import ArgumentSchema
from tailrace.chat.lark_builder import escape_regex
from tailrace.chat.markers import partial_marker_length
from tailrace.chat.tool_parsers.call_tags import CallTags
from tailrace.chat.tool_parsers.json_scanner import JsonScanner

_CONTAINERS = frozenset({"array", "object"})
_LONGEST_NAME = 256
#: The name of an argument, where the schema tells none.
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class ScannedValue(NamedTuple):
    """``text`` belongs to the value; behind its end comes ``rest``."""

    text: str
    rest: str
    ended: bool


class ValueScanner:
    """See the module. Line breaks around the value that belong to the markup are left out."""

    def __init__(self, tags: CallTags, argument: ArgumentSchema, names: frozenset[str] | None) -> None:
        """``names`` are the arguments that may still follow; None where the schema names none at all."""
        self.argument = argument
        self._tags = tags
        self._names = names
        self._pattern, self._markers = _markers(tags)
        self._buffer = ""
        self._searched = 0  #: no end begins before this
        self._begun = not tags.lines
        #: Follows a value that may be a JSON object or list, as long as it is one.
        self._json = JsonScanner() if argument.types & _CONTAINERS and not argument.choices else None
        self._inside = False  #: that one has begun
        self._fed = 0  #: characters at the buffer's start that are part of it, perhaps

    def feed(self, text: str) -> ScannedValue:
        """What ``text`` adds."""
        self._buffer += text
        if not self._begun:
            if not self._buffer:
                return ScannedValue("", "", ended=False)
            self._buffer = self._buffer.removeprefix("\n")
            self._begun = True
        json = self._in_json()
        if self._inside:
            return ScannedValue(json, "", ended=False)
        found = self._end()
        if found is not None:
            start, behind = found
            value, rest = json + self._buffer[:start], self._buffer[behind:]
            self._buffer = ""
            return ScannedValue(value.removesuffix("\n") if self._tags.lines else value, rest, ended=True)
        held = self._tags.lines and self._buffer[: self._searched].endswith("\n")
        return self._take(json, self._searched - held)

    def _take(self, json: str, out: int) -> ScannedValue:
        """Let out ``json`` and so much of the buffer."""
        taken, self._buffer = json + self._buffer[:out], self._buffer[out:]
        self._searched = max(0, self._searched - out)
        return ScannedValue(taken, "", ended=False)

    def finish(self) -> tuple[str, bool]:
        """What is left at the reply's end, and whether the call ends there."""
        rest = self._buffer
        ends = self._tags.call_ends
        start = rest.rfind(ends) if self._tags.ends_missing and ends else -1
        if start < 0 or not self._tags.end.startswith(rest[start + len(ends) :].strip()):
            return rest, False
        value = rest[:start]
        return value.removesuffix("\n") if self._tags.lines else value, True

    def _in_json(self) -> str:
        """Take what belongs to a JSON object or list out of the buffer. Nothing in it is an end."""
        if self._json is None:
            return ""
        begun = self._buffer.lstrip()
        if not self._inside:
            if not begun:
                return ""
            if begun[0] not in "[{":
                self._json = None
                return ""
            self._inside = True
        _, rest = self._json.feed(self._buffer[self._fed :])
        read = len(self._buffer) - len(rest)
        self._fed = int(self._buffer[:read].endswith("\n"))  # It may belong to the markup behind the value.
        taken, self._buffer = self._buffer[: read - self._fed], self._buffer[read - self._fed :]
        if self._json.done or self._json.broken:
            self._json, self._inside = None, False
        return taken

    def _end(self) -> tuple[int, int] | None:
        """Where the value ends and what follows begins; None while that isn't to be seen."""
        buffer, tags = self._buffer, self._tags
        while found := self._pattern.search(buffer, self._searched):
            start, behind, marker = found.start(), found.end(), found[0]
            if marker == tags.value_ends:
                return start, behind
            follows = self._another(behind) if marker == tags.key_opens else self._over(marker, behind)
            if follows is None:
                self._searched = start
                return None
            if follows:
                return start, start
            self._searched = behind
        self._searched = max(self._searched, len(buffer) - partial_marker_length(buffer, self._markers))
        return None

    def _another(self, position: int) -> bool | None:
        """Whether another argument begins; None while that isn't known."""
        rest = self._buffer[position : position + _LONGEST_NAME]
        end = rest.find(self._tags.key_ends)
        if end >= 0:
            return self._may_follow(rest[:end].strip())
        if len(rest) == _LONGEST_NAME:
            return False
        begun = rest.strip()
        if self._names is None:
            return None if not begun or self._may_follow(begun) else False
        return None if any(name.startswith(begun) for name in self._names) else False

    def _may_follow(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None if self._names is None else name in self._names

    def _over(self, marker: str, position: int) -> bool | None:
        """Whether the call ends with this marker; None while that isn't known."""
        end = self._tags.end
        if marker != self._tags.call_ends:
            return True
        rest = self._buffer[position:].lstrip()
        if rest.startswith(end):
            return True
        return None if end.startswith(rest) else False


def early_end_patterns(tags: CallTags, names: Iterable[str]) -> list[str]:
    """What ends a value without its end tag, as regular expressions; ``names`` are the arguments that may follow. A
    grammar keeps it out of texts: what a model writes under it has to be read as it was meant.
    """
    if not tags.ends_missing:
        return []
    space = r"[ \n\r\t]*"
    return [
        f"{escape_regex(tags.call_ends)}{space}{escape_regex(tags.end)}",
        escape_regex(f"\n{tags.end}"),
        *(
            f"{escape_regex(tags.key_opens)}{space}{escape_regex(name)}{space}{escape_regex(tags.key_ends)}"
            for name in names
        ),
    ]


@cache
def _markers(tags: CallTags) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """What to look for in a value."""
    markers = [tags.value_ends]
    if tags.ends_missing:
        markers += [tags.key_opens, tags.call_ends, f"\n{tags.end}"]
    return re.compile("|".join(map(re.escape, markers))), tuple(markers)
