"""Turns an argument in bare text into JSON, by the types that its schema admits.

Models write JSON, and often Python: ``True``, ``None``, ``['x', 'y']``. Where the schema admits a string, the text is a
string, unless it clearly is an admitted null, list or object.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec

from tailrace.chat.argument_types import ALL_TYPES, ArgumentSchema, json_type_of
from tailrace.chat.json_depth import is_too_deep

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")
_CONTAINERS = frozenset({"array", "object"})
_TOKEN = re.compile(
    r"""(?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?P<mark>[\[\](){},:])|(?P<word>[^\s\[\](){},:'"]+)|\s+""",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}


def streaming_mode(text: str, argument: ArgumentSchema) -> Literal["text", "whole", "undecided"]:
    """How a value with this beginning is emitted: as text, piece by piece, or once it is whole. Undecided: more text
    is needed.
    """
    if argument.choices or "string" not in argument.types or argument.types == ALL_TYPES:
        return "whole"
    begun = text.strip()
    if argument.types & _CONTAINERS and begun[:1] in ("[", "{"):
        return "whole"
    if "null" in argument.types and ("null".startswith(begun.lower()) or "None".startswith(begun)):
        return "undecided"
    return "undecided" if not begun and argument.types & _CONTAINERS else "text"


def value_to_json(text: str, argument: ArgumentSchema) -> str:
    """The JSON of a value in bare text."""
    bare = text.strip()
    strings = [choice for choice in argument.choices if isinstance(choice, str)]
    for candidate in (text, bare, _unquoted(bare)):
        if candidate in strings:
            return _string(candidate)
    types = argument.types
    if types == ALL_TYPES:
        return bare if _decoded(bare) is not _NO_JSON else _string(text)
    if "string" not in types:
        found = _non_string(bare, types)
        return _string(text) if found is None else found
    if "null" in types and _is_null(bare):
        return "null"
    if types & _CONTAINERS and bare[:1] in ("[", "{"):
        found = _container(bare, types)
        if found is not None:
            return found
    return _string(text)


class _NoJson:
    """Stands for text that is no JSON."""


_NO_JSON = _NoJson()


def _non_string(text: str, types: frozenset[str], *, quoted: bool = False) -> str | None:
    """The JSON of a value that is no string; None where the text has none of the types and is no JSON."""
    decoded = _decoded(text)
    if decoded is not _NO_JSON:
        kind = json_type_of(decoded)
        if kind == "integer" and types & {"integer", "number"}:
            return text if isinstance(decoded, int) or "number" in types else str(int(decoded))
        if kind in types:
            return text
    if _is_null(text):
        return "null"
    if "boolean" in types and text.lower() in ("true", "false"):
        return text.lower()
    if types & {"integer", "number"}:
        number = _number(text, types)
        if number is not None:
            return number
    if types & _CONTAINERS:
        found = _container(text, types)
        if found is not None:
            return found
    inner = _unquoted(text)
    if not quoted and inner is not None:
        found = _non_string(inner.strip(), types, quoted=True)
        if found is not None:
            return found
    return None if decoded is _NO_JSON else text


def _number(text: str, types: frozenset[str]) -> str | None:
    if _INTEGER.fullmatch(text):
        return str(int(text))
    if "number" in types and _NUMBER.fullmatch(text):
        number = float(text)
        return repr(number) if abs(number) != float("inf") else None
    return None


def _container(text: str, types: frozenset[str]) -> str | None:
    decoded = _decoded(text)
    if decoded is _NO_JSON:
        written = _python(text)
        decoded = _NO_JSON if written is None else _decoded(written)
        text = written or text
    return text if decoded is not _NO_JSON and json_type_of(decoded) in types & _CONTAINERS else None


def _python(text: str) -> str | None:
    """A Python literal as JSON, without evaluation; None for other text. Tuples become lists."""
    pieces: list[str] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            return None
        position = found.end()
        if found["string"] is not None:
            pieces.append(_string(_ESCAPE.sub(_unescaped, found["string"][1:-1])))
        elif found["word"] is not None:
            pieces.append(_WORDS.get(found["word"], found["word"]))
        elif (mark := found["mark"]) is not None:
            if mark in "])}" and pieces and pieces[-1] == ",":
                pieces.pop()
            pieces.append({"(": "[", ")": "]"}.get(mark, mark))
    return "".join(pieces)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code is None:
        return _ESCAPED.get(found[4], found[4] if found[4] in "\\'\"" else found[0])
    number = int(code, 16)
    return found[0] if number > 0x10FFFF or 0xD800 <= number < 0xE000 else chr(number)


def _unquoted(text: str) -> str | None:
    """The text between quotes; None where there are none."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else None


def _is_null(text: str) -> bool:
    return text.lower() == "null" or text == "None"


def _decoded(text: str) -> Any:
    if is_too_deep(text):
        return _NO_JSON
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _NO_JSON


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
