"""Parses one call with an element for each argument. Its value is bare text or JSON, as the function's schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from tailrace.chat.argument_types import ALL_TYPES, ArgumentSchema, FunctionSchema
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReplyPart
from tailrace.chat.tool_parsers.argument_value import streaming_mode, value_to_json
from tailrace.chat.tool_parsers.base import CallsEnded, is_valid_name
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tool_parsers.value_scanner import ValueScanner
from tailrace.chat.tool_parsers.xml_call_tags import XmlCallTags
from tailrace.chat.tools import Function

_NAME = re.compile(r"[^\s<>{}\"]+")
_MAX_KEY = 1024


#: Types of an argument without a type in the schema, where the family's own parser takes it for text.
UNTYPED = frozenset({"string", "null"})


class XmlCallParser:
    """See the module. A call as a JSON object is parsed as well."""

    def __init__(
        self, opening: str, tags: XmlCallTags, functions: Mapping[str, Function], *, named: bool = False
    ) -> None:
        """``opening`` is the marker before the call; with ``named`` it is the start of the name's tag."""
        self._opening = opening
        self._tags = tags
        self._functions = functions
        self._buffer = ""
        self._state: Literal["opened", "name", "between", "key", "value opens", "value", "json"] = (
            "name" if named else "opened"
        )
        self._arguments = FunctionSchema(None)
        self._given: set[str] = set()  #: names of the arguments so far
        self._key = ""
        self._first = True  #: no argument has been emitted
        self._value: ValueScanner | None = None  #: the value that is being parsed
        self._mode: Literal["text", "whole", "undecided"] = (
            "undecided"  #: how the value is emitted: as a string's pieces, or as a whole
        )
        self._held: list[str] = []  #: the part of the value that isn't emitted yet
        self._json: JsonCallParser | None = None

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """See ``CallParser``."""
        if self._json is not None:
            self._json.feed(text, parts)
            return
        if self._value is not None:
            if not self._in_value(text, parts):
                return
        else:
            self._buffer += text
        while self._advance(parts):
            pass

    def finish(self, parts: list[ReplyPart]) -> str:
        """See ``CallParser``."""
        if self._json is not None:
            return self._json.finish(parts)
        if self._state in ("opened", "name"):
            return self._opening + self._buffer
        if self._value is not None:
            self._finish_value(self._value, parts)
        elif self._state == "between" and self._tags.call_end:
            rest = self._buffer.lstrip()
            if rest.startswith(self._tags.call_end) and self._tags.outer_end.startswith(
                rest[len(self._tags.call_end) :].strip()
            ):
                parts += [CallArguments("}"), CallEnd()]  # Only the tags around the call are cut off.
        return ""

    def _finish_value(self, value: ValueScanner, parts: list[ReplyPart]) -> None:
        """The reply ends within a value: the call is complete where its end tag is there, else it is cut."""
        rest, ended = value.finish()
        held = self._all_held() + rest
        if self._mode == "undecided":
            self._mode = "text" if "string" in value.argument.types and not ended else "whole"
            if self._mode == "text":
                parts.append(CallArguments(self._separator() + '"'))
        if self._mode == "text":
            parts.append(CallArguments(_escaped(held) + ('"' if ended else "")))
        elif ended:
            parts.append(CallArguments(self._separator() + value_to_json(held, value.argument)))
        else:
            parts.append(CallArguments(self._separator() + held))
        if ended:
            parts += [CallArguments("}"), CallEnd()]

    def _advance(self, parts: list[ReplyPart]) -> bool:
        """Take one step; True where another one may follow."""
        if self._state == "opened":
            return self._open(parts)
        if self._state == "name":
            return self._name(parts)
        if self._state == "between":
            return self._between(parts)
        if self._state == "key":
            return self._read_key()
        return self._open_value(parts) if self._state == "value opens" else False

    def _open(self, parts: list[ReplyPart]) -> bool:
        rest = self._buffer.lstrip()
        if not rest:
            return False
        if rest.startswith("{"):
            self._json = JsonCallParser(
                self._opening + self._buffer[: len(self._buffer) - len(rest)], self._tags.outer_end
            )
            self._json.feed(rest, parts)
            return False
        opens = self._tags.name_start
        if rest.startswith(opens):
            self._opening += self._buffer[: len(self._buffer) - len(rest)] + opens
            self._buffer = rest[len(opens) :]
            self._state = "name"
            return True
        if opens.startswith(rest):
            return False
        raise CallsEnded(failed=self._opening, rest=self._buffer)

    def _name(self, parts: list[ReplyPart]) -> bool:
        tags = self._tags
        ends = (tags.name_end,) if tags.name_end else (tags.key_start, tags.outer_end)
        found = [position for end in ends if (position := self._buffer.find(end)) >= 0]
        if not found:
            if len(self._buffer) > _MAX_KEY:
                raise CallsEnded(failed=self._opening, rest=self._buffer)
            return False
        name = self._buffer[: min(found)].strip()
        if not _NAME.fullmatch(name) or not is_valid_name(name):
            raise CallsEnded(failed=self._opening, rest=self._buffer)
        self._buffer = self._buffer[min(found) + len(tags.name_end) :]
        function = self._functions.get(name)
        self._arguments = FunctionSchema(function.parameters if function is not None else None)
        parts += [CallStart(name), CallArguments("{")]
        self._state = "between"
        return True

    def _between(self, parts: list[ReplyPart]) -> bool:
        tags = self._tags
        rest = self._buffer.lstrip()
        if rest.startswith(tags.key_start):
            self._buffer = rest[len(tags.key_start) :]
            self._state = "key"
            return True
        ended = bool(tags.call_end) and rest.startswith(tags.call_end)
        after = rest[len(tags.call_end) :].lstrip() if ended else rest
        if after.startswith(tags.outer_end) or not (
            tags.outer_end.startswith(after)
            or (not ended and (tags.key_start.startswith(rest) or tags.call_end.startswith(rest)))
        ):
            parts += [CallArguments("}"), CallEnd()]
            raise CallsEnded(rest=after.removeprefix(tags.outer_end))
        return False

    def _read_key(self) -> bool:
        end = self._buffer.find(self._tags.key_end)
        if end < 0:
            if len(self._buffer) > _MAX_KEY:
                raise CallsEnded(rest=self._buffer, broken=True)
            return False
        self._key = self._buffer[:end].strip()
        self._buffer = self._buffer[end + len(self._tags.key_end) :]
        self._state = "value opens"
        return True

    def _open_value(self, parts: list[ReplyPart]) -> bool:
        opens = self._tags.value_start
        rest = self._buffer.lstrip() if opens else self._buffer
        if not rest.startswith(opens):
            if opens.startswith(rest):
                return False
            raise CallsEnded(rest=rest, broken=True)
        self._given.add(self._key)
        argument = self._arguments.argument(self._key)
        if self._tags.untyped_text and argument.types == ALL_TYPES:
            argument = ArgumentSchema(UNTYPED, argument.choices)
        names = self._arguments.names
        self._value = ValueScanner(self._tags, argument, names - self._given if names else None)
        self._mode = "undecided"
        text, self._buffer = rest[len(opens) :], ""
        self._state = "value"
        return self._in_value(text, parts)

    def _in_value(self, text: str, parts: list[ReplyPart]) -> bool:
        assert self._value is not None
        taken, rest, ended = self._value.feed(text)
        self._held.append(taken)
        if self._mode == "undecided":
            self._mode = streaming_mode("".join(self._held), self._value.argument)
            if self._mode == "undecided" and ended:
                self._mode = "whole"
            if self._mode == "text":
                parts.append(CallArguments(self._separator() + '"'))
        if self._mode == "text" and (held := self._all_held()):
            parts.append(CallArguments(_escaped(held)))
        if not ended:
            return False
        if self._mode == "text":
            parts.append(CallArguments('"'))
        else:
            parts.append(CallArguments(self._separator() + value_to_json(self._all_held(), self._value.argument)))
        self._value = None
        self._buffer, self._state = rest, "between"
        return True

    def _all_held(self) -> str:
        held, self._held = "".join(self._held), []
        return held

    def _separator(self) -> str:
        """The text before the argument's value."""
        before = "" if self._first else ", "
        self._first = False
        return f"{before}{json.dumps(self._key, ensure_ascii=False)}: "


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
