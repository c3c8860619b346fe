"""One call with an element for each argument, whose value is plain text or JSON, as the function's schema has it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tailrace.chat.markers import partial
from tailrace.chat.parts import CallArguments, CallEnd, CallStart, Part
from tailrace.chat.readers.json_calls import JsonCalls
from tailrace.chat.readers.reader import Over, fits
from tailrace.chat.tools import Function

_NAME = re.compile(r"[^\s<>{}\"]+")
_LONGEST_KEY = 1024


@dataclass(frozen=True, kw_only=True)
class Tags:
    """What stands around a call's parts."""

    name_opens: str  #: "" where the name follows at once
    name_ends: str  #: "" where the next tag ends it
    key_opens: str
    key_ends: str
    value_opens: str
    value_ends: str
    call_ends: str  #: behind the last argument; "" where there is none
    end: str  #: what ends the whole
    lines: bool  #: whether a value stands on lines of its own


class TaggedCall:
    """See the module. A call as a JSON object is read as well."""

    def __init__(self, opening: str, tags: Tags, functions: Mapping[str, Function], *, named: bool = False) -> None:
        """``opening`` is the marker that came before; with ``named`` it is what opens the name."""
        self._opening = opening
        self._tags = tags
        self._functions = functions
        self._buffer = ""
        self._state: Literal["opened", "name", "between", "key", "value opens", "value", "json"] = (
            "name" if named else "opened"
        )
        self._parameters: dict[str, Any] = {}
        self._key = ""
        self._first = True  #: no argument has been passed on
        self._plain = False  #: the value is text and passed on as it comes
        self._begun = False  #: some of the value has been looked at
        self._json: JsonCalls | None = None

    def feed(self, text: str, parts: list[Part]) -> None:
        """See ``Reader``."""
        if self._json is not None:
            self._json.feed(text, parts)
            return
        self._buffer += text
        while self._advance(parts):
            pass

    def finish(self, parts: list[Part]) -> str:
        """See ``Reader``."""
        if self._json is not None:
            return self._json.finish(parts)
        if self._state in ("opened", "name"):
            return self._opening + self._buffer
        if self._state == "value":
            text = self._buffer if self._plain else f"{self._separator()}{self._buffer}"
            if text:
                parts.append(CallArguments(_escaped(text) if self._plain else text))
        return ""

    def _advance(self, parts: list[Part]) -> bool:
        """Take one step; True when there may be another."""
        if self._state == "opened":
            return self._open(parts)
        if self._state == "name":
            return self._name(parts)
        if self._state == "between":
            return self._between(parts)
        if self._state == "key":
            return self._read_key()
        if self._state == "value opens":
            return self._open_value(parts)
        return self._plain_value(parts) if self._plain else self._whole_value(parts)

    def _open(self, parts: list[Part]) -> bool:
        rest = self._buffer.lstrip()
        if not rest:
            return False
        if rest.startswith("{"):
            self._json = JsonCalls(self._opening + self._buffer[: len(self._buffer) - len(rest)], self._tags.end)
            self._json.feed(rest, parts)
            return False
        opens = self._tags.name_opens
        if rest.startswith(opens):
            self._opening += self._buffer[: len(self._buffer) - len(rest)] + opens
            self._buffer = rest[len(opens) :]
            self._state = "name"
            return True
        if opens.startswith(rest):
            return False
        raise Over(failed=self._opening, rest=self._buffer)

    def _name(self, parts: list[Part]) -> bool:
        tags = self._tags
        ends = (tags.name_ends,) if tags.name_ends else (tags.key_opens, tags.end)
        found = [position for end in ends if (position := self._buffer.find(end)) >= 0]
        if not found:
            if len(self._buffer) > _LONGEST_KEY:
                raise Over(failed=self._opening, rest=self._buffer)
            return False
        name = self._buffer[: min(found)].strip()
        if not _NAME.fullmatch(name) or not fits(name):
            raise Over(failed=self._opening, rest=self._buffer)
        self._buffer = self._buffer[min(found) + len(tags.name_ends) :]
        function = self._functions.get(name)
        properties = (function.parameters or {}).get("properties") if function is not None else None
        self._parameters = properties if isinstance(properties, dict) else {}
        parts += [CallStart(name), CallArguments("{")]
        self._state = "between"
        return True

    def _between(self, parts: list[Part]) -> bool:
        tags = self._tags
        rest = self._buffer.lstrip()
        if rest.startswith(tags.key_opens):
            self._buffer = rest[len(tags.key_opens) :]
            self._state = "key"
            return True
        ended = bool(tags.call_ends) and rest.startswith(tags.call_ends)
        after = rest[len(tags.call_ends) :].lstrip() if ended else rest
        if after.startswith(tags.end) or not (
            tags.end.startswith(after)
            or (not ended and (tags.key_opens.startswith(rest) or tags.call_ends.startswith(rest)))
        ):
            parts += [CallArguments("}"), CallEnd()]
            raise Over(rest=after.removeprefix(tags.end))
        return False

    def _read_key(self) -> bool:
        end = self._buffer.find(self._tags.key_ends)
        if end < 0:
            if len(self._buffer) > _LONGEST_KEY:
                raise Over(rest=self._buffer, broken=True)
            return False
        self._key = self._buffer[:end].strip()
        self._buffer = self._buffer[end + len(self._tags.key_ends) :]
        self._state = "value opens"
        return True

    def _open_value(self, parts: list[Part]) -> bool:
        opens = self._tags.value_opens
        rest = self._buffer.lstrip() if opens else self._buffer
        if not rest.startswith(opens):
            if opens.startswith(rest):
                return False
            raise Over(rest=rest, broken=True)
        self._buffer = rest[len(opens) :]
        self._state, self._begun = "value", False
        self._plain = _is_text(self._parameters.get(self._key))
        if self._plain:
            parts.append(CallArguments(self._separator() + '"'))
        return True

    def _plain_value(self, parts: list[Part]) -> bool:
        if self._tags.lines and not self._begun:
            if not self._buffer:
                return False
            self._buffer = self._buffer.removeprefix("\n")
            self._begun = True
        ends = self._tags.value_ends
        position = self._buffer.find(ends)
        if position >= 0:
            value = self._buffer[:position]
            if self._tags.lines:
                value = value.removesuffix("\n")
            parts.append(CallArguments(_escaped(value) + '"'))
            self._buffer = self._buffer[position + len(ends) :]
            self._state = "between"
            return True
        keep = partial(self._buffer, ("\n" + ends, ends) if self._tags.lines else (ends,))
        out = self._buffer[: len(self._buffer) - keep]
        if out:
            parts.append(CallArguments(_escaped(out)))
            self._buffer = self._buffer[len(out) :]
        return False

    def _whole_value(self, parts: list[Part]) -> bool:
        position = self._buffer.find(self._tags.value_ends)
        if position < 0:
            return False
        value = self._buffer[:position].strip()
        parts.append(CallArguments(self._separator() + _json(value)))
        self._buffer = self._buffer[position + len(self._tags.value_ends) :]
        self._state = "between"
        return True

    def _separator(self) -> str:
        """What stands before the argument's value."""
        before = "" if self._first else ", "
        self._first = False
        return f"{before}{json.dumps(self._key, ensure_ascii=False)}: "


def _is_text(schema: object) -> bool:
    """Whether the schema allows strings alone."""
    if not isinstance(schema, dict):
        return False
    if "type" in schema:
        return bool(schema["type"] == "string")
    allowed = schema.get("enum")
    return isinstance(allowed, list) and all(isinstance(value, str) for value in allowed)


def _json(value: str) -> str:
    """``value`` if it is JSON, else the JSON of it as a string."""
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    return value


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
