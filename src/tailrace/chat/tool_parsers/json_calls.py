"""Parses calls as JSON objects with a name and arguments: one, several, or a list of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReplyPart
from tailrace.chat.tool_parsers.base import CallsEnded, is_valid_name
from tailrace.chat.tool_parsers.json_scanner import JsonScanner

_KEYS = ("arguments", "parameters")
#: An object up to its arguments, in the usual order of keys. From there on the arguments stream.
_HEAD = re.compile(
    r'\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"\\]*"\s*,\s*)*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    rf'\s*"(?:{"|".join(_KEYS)})"\s*:\s*(?=\{{)'
)
#: Characters in which a head is searched.
_MAX_HEAD = 2048
_FIRST_KEY = re.compile(r'\s*\{\s*"([^"\\]*)"')
_CALL_KEYS = frozenset({"name", "type", "id", "function", *_KEYS})
_BETWEEN = ",;"


class JsonCallParser:
    """See the module. An object that is no call, or no JSON, becomes text, with the text before it."""

    def __init__(
        self, opening: str, end: str | None, known: Callable[[str], bool] = is_valid_name, *, listed: bool = False
    ) -> None:
        """``opening`` is the marker before the calls; with ``listed`` it includes a list's bracket. ``end`` is the
        marker after the last call, which may be missing; None for none. An object is a call if its name is ``known``.
        """
        self._unused = opening  #: becomes text if no call follows
        self._called = False
        self._end = end
        self._known = known
        self._buffer = ""
        self._listed = listed
        self._object: JsonScanner | None = None
        self._raw = ""  #: the object's JSON, while it may be no call
        self._source = ""  #: the same, as the model has written it
        self._arguments: JsonScanner | None = None
        self._tail: JsonScanner | None = None  #: the rest of the object after the arguments

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """See ``CallParser``."""
        while text or self._buffer:
            if self._arguments is not None:
                text = self._in_arguments(self._arguments, text, parts)
            elif self._tail is not None:
                text = self._in_tail(self._tail, text, parts)
            elif self._object is not None:
                text = self._in_object(self._object, text, parts)
            elif (after := self._between(text)) is None:
                return
            else:
                text = after

    def finish(self, parts: list[ReplyPart]) -> str:
        """See ``CallParser``."""
        if self._arguments is not None and self._arguments.held:
            parts.append(CallArguments(self._arguments.held))
        rest = self._buffer
        if self._called:
            rest = "" if (self._end or "").startswith(rest.strip()) else rest.strip()
        return self._unused + self._source + rest

    def _between(self, text: str) -> str | None:
        """Skip to the next object. Returns the text from there on; None while the object hasn't come."""
        self._buffer += text
        rest = self._buffer.lstrip()
        following = rest.lstrip(_BETWEEN).lstrip() if self._called else rest
        end = self._end
        if not following:
            return None
        before = self._buffer[: len(self._buffer) - len(following)]
        if following.startswith("{"):
            self._unused += "" if self._called else before
            self._buffer = ""
            self._object = JsonScanner()
            return following
        if rest.startswith("[") and not (self._listed or self._called):
            self._listed = True
            self._unused += before + "["
            self._buffer = ""
            return rest[1:]
        if rest.startswith("]") and self._listed and self._called:
            self._listed = False
            if end is None:
                raise CallsEnded(rest=rest[1:])
            self._buffer = ""
            return rest[1:]
        if end is not None and end.startswith(rest) and rest != end:
            return None
        if not self._called:
            raise CallsEnded(failed=self._unused + before, rest=rest)
        raise CallsEnded(rest=rest.removeprefix(end) if end is not None else rest)

    def _in_object(self, value: JsonScanner, text: str, parts: list[ReplyPart]) -> str:
        taken, rest = value.feed(text)
        self._raw += taken
        self._source += text
        self._source = self._source[: len(self._source) - len(rest)]
        head = _HEAD.match(self._raw, 0, _MAX_HEAD)
        if head is not None:
            name = _string(head[1])
            if name is not None and is_valid_name(name) and self._known(name):
                parts.append(CallStart(name))
                after = self._raw[head.end() :] + value.held + rest
                self._called, self._unused, self._raw, self._source = True, "", "", ""
                self._object, self._arguments = None, JsonScanner()
                return after
        if end := self._end_of_no_call():
            raise CallsEnded(failed=self._unused + self._source[:end], rest=self._source[end:] + rest)
        if value.done:
            call = self._decoded(self._raw)
            if call is None:
                raise self._failure(rest)
            parts += [CallStart(call[0]), CallArguments(call[1]), CallEnd()]
            self._called, self._unused, self._raw, self._source = True, "", "", ""
            self._object = None
            return rest
        if value.broken:
            raise self._failure(rest)
        return rest

    def _end_of_no_call(self) -> int:
        """The position in an object without a marker where it turns out to be no call; 0 while it may be one."""
        if self._unused.strip(" \n\r\t["):
            return 0
        key = _FIRST_KEY.match(self._source)
        return key.end() if key is not None and key[1] not in _CALL_KEYS else 0

    def _failure(self, rest: str) -> CallsEnded:
        return CallsEnded(failed=self._unused + self._source, rest=rest)

    def _in_arguments(self, value: JsonScanner, text: str, parts: list[ReplyPart]) -> str:
        taken, rest = value.feed(text)
        if taken:
            parts.append(CallArguments(taken))
        if value.broken:
            raise CallsEnded(rest=rest, broken=True)
        if value.done:
            self._arguments, self._tail = None, JsonScanner(within=True)
        return rest

    def _in_tail(self, value: JsonScanner, text: str, parts: list[ReplyPart]) -> str:
        _, rest = value.feed(text)
        if value.done or value.broken:
            # The arguments are complete, even if the rest is broken.
            parts.append(CallEnd())
            self._tail = None
            if value.broken:
                raise CallsEnded(rest=rest, broken=True)
        return rest

    def _decoded(self, raw: str) -> tuple[str, str] | None:
        """Name and arguments of a complete object; None where it is no call."""
        try:
            decoded = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return None
        if isinstance(decoded.get("function"), dict):
            decoded = decoded["function"]  # OpenAI's own form of a call.
        name = decoded.get("name")
        arguments: Any = next((decoded[key] for key in _KEYS if decoded.get(key) is not None), {})
        if isinstance(arguments, str):  # Encoded twice. Models write "" and "null" for a function without parameters.
            arguments = _object(arguments) if arguments.strip() not in ("", "null") else {}
        if (
            not isinstance(name, str)
            or not is_valid_name(name)
            or not self._known(name)
            or not isinstance(arguments, dict)
        ):
            return None
        return name, msgspec.json.encode(arguments).decode()


def _string(raw: str) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None


def _object(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
