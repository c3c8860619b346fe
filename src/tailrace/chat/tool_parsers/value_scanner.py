"""Scans one argument's value in pieces of text: finds the text that belongs to it, and its end.

In a JSON object or list the end tag may be part of a string. Some models leave the end tag out. Then the value ends
before the next argument that the function has, or at the call's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from tailrace.chat.argument_types import ArgumentSchema
from tailrace.chat.lark_builder import escape_regex
from tailrace.chat.marker_search import partial_marker_length
from tailrace.chat.tool_parsers.json_scanner import JsonScanner
from tailrace.chat.tool_parsers.xml_call_tags import XmlCallTags

_CONTAINERS = frozenset({"array", "object"})
_MAX_NAME = 256
#: An argument's name, where the schema has no names.
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class ScannedValue(NamedTuple):
    """``text`` belongs to the value. ``rest`` is the text after its end."""

    text: str
    rest: str
    ended: bool


class ValueScanner:
    """See the module. Line breaks that belong to the markup are left out."""

    def __init__(self, tags: XmlCallTags, argument: ArgumentSchema, names: frozenset[str] | None) -> None:
        """``names``: arguments that may still follow; None where the schema has no names."""
        self.argument = argument
        self._tags = tags
        self._names = names
        self._pattern, self._markers = _markers(tags)
        self._buffer = ""
        self._searched = 0  #: no end begins before this position
        self._begun = not tags.own_lines
        #: Scans the value as long as it may be a JSON object or list.
        self._json = JsonScanner() if argument.types & _CONTAINERS and not argument.choices else None
        self._inside = False  #: the JSON has begun
        self._fed = 0  #: characters at the buffer's start that the scanner has seen

    def feed(self, text: str) -> ScannedValue:
        """The text that ``text`` adds to the value."""
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
            start, after = found
            value, rest = json + self._buffer[:start], self._buffer[after:]
            self._buffer = ""
            return ScannedValue(value.removesuffix("\n") if self._tags.own_lines else value, rest, ended=True)
        held = self._tags.own_lines and self._buffer[: self._searched].endswith("\n")
        return self._take(json, self._searched - held)

    def _take(self, json: str, out: int) -> ScannedValue:
        """Emit ``json`` and ``out`` characters of the buffer."""
        taken, self._buffer = json + self._buffer[:out], self._buffer[out:]
        self._searched = max(0, self._searched - out)
        return ScannedValue(taken, "", ended=False)

    def finish(self) -> tuple[str, bool]:
        """The rest of the value at the reply's end, and whether the call ends there."""
        rest = self._buffer
        ends = self._tags.call_end
        start = rest.rfind(ends) if self._tags.may_lack_end and ends else -1
        if start < 0 or not self._tags.outer_end.startswith(rest[start + len(ends) :].strip()):
            return rest, False
        value = rest[:start]
        return value.removesuffix("\n") if self._tags.own_lines else value, True

    def _in_json(self) -> str:
        """Take the text of a JSON object or list out of the buffer. It contains no end."""
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
        self._fed = int(self._buffer[:read].endswith("\n"))  # The line break may belong to the markup after the value.
        taken, self._buffer = self._buffer[: read - self._fed], self._buffer[read - self._fed :]
        if self._json.done or self._json.broken:
            self._json, self._inside = None, False
        return taken

    def _end(self) -> tuple[int, int] | None:
        """The end of the value and the start of the text after it; None while unknown."""
        buffer, tags = self._buffer, self._tags
        while found := self._pattern.search(buffer, self._searched):
            start, after, marker = found.start(), found.end(), found[0]
            if marker == tags.value_end:
                return start, after
            follows = self._next_argument(after) if marker == tags.key_start else self._call_end(marker, after)
            if follows is None:
                self._searched = start
                return None
            if follows:
                return start, start
            self._searched = after
        self._searched = max(self._searched, len(buffer) - partial_marker_length(buffer, self._markers))
        return None

    def _next_argument(self, position: int) -> bool | None:
        """Whether another argument begins; None while unknown."""
        rest = self._buffer[position : position + _MAX_NAME]
        end = rest.find(self._tags.key_end)
        if end >= 0:
            return self._may_follow(rest[:end].strip())
        if len(rest) == _MAX_NAME:
            return False
        begun = rest.strip()
        if self._names is None:
            return None if not begun or self._may_follow(begun) else False
        return None if any(name.startswith(begun) for name in self._names) else False

    def _may_follow(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None if self._names is None else name in self._names

    def _call_end(self, marker: str, position: int) -> bool | None:
        """Whether the call ends with this marker; None while unknown."""
        end = self._tags.outer_end
        if marker != self._tags.call_end:
            return True
        rest = self._buffer[position:].lstrip()
        if rest.startswith(end):
            return True
        return None if end.startswith(rest) else False


def early_end_patterns(tags: XmlCallTags, names: Iterable[str]) -> list[str]:
    """Texts that end a value without its end tag, as regular expressions. ``names``: arguments that may follow. A
    grammar excludes these texts from values, so a value that it allows is parsed as one.
    """
    if not tags.may_lack_end:
        return []
    space = r"[ \n\r\t]*"
    return [
        f"{escape_regex(tags.call_end)}{space}{escape_regex(tags.outer_end)}",
        escape_regex(f"\n{tags.outer_end}"),
        *(
            f"{escape_regex(tags.key_start)}{space}{escape_regex(name)}{space}{escape_regex(tags.key_end)}"
            for name in names
        ),
    ]


@cache
def _markers(tags: XmlCallTags) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The markers that may end a value."""
    markers = [tags.value_end]
    if tags.may_lack_end:
        markers += [tags.key_start, tags.call_end, f"\n{tags.outer_end}"]
    return re.compile("|".join(map(re.escape, markers))), tuple(markers)
