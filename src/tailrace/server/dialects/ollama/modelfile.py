"""Parses Ollama's Modelfiles: one instruction a line; values between triple quotes may have several lines."""

from __future__ import annotations

import re
from typing import NamedTuple

from tailrace.errors import InvalidRequest

_INSTRUCTION = re.compile(r"[ \t]*([A-Za-z]+)[ \t]+")
_ROLES = ("system", "user", "assistant")


class Instruction(NamedTuple):
    """One instruction. ``name`` is the parameter's, or the message's role, where it has one."""

    kind: str  #: in lower case
    name: str
    value: str


def parse(text: str) -> list[Instruction]:
    """The instructions of a Modelfile. Raises InvalidRequest."""
    found: list[Instruction] = []
    position = 0
    while position < len(text):
        line_end = text.find("\n", position)
        line = text[position : line_end if line_end >= 0 else len(text)]
        if not line.strip() or line.lstrip().startswith("#"):
            position += len(line) + 1
            continue
        begun = _INSTRUCTION.match(text, position)
        if begun is None:
            raise _wrong(f"a line is no instruction: {line.strip()[:80]!r}")
        kind, name, position = begun[1].lower(), "", begun.end()
        if kind in ("parameter", "message"):
            word = re.compile(r"(\S+)[ \t]+").match(text, position)
            if word is None:
                raise _wrong(f"'{kind.upper()}' needs a name and a value")
            name, position = word[1], word.end()
        value, position = _value(text, position)
        if kind == "message" and name not in _ROLES:
            raise _wrong(f"a message's role has to be one of {', '.join(_ROLES)}")
        found.append(Instruction(kind, name, value))
    return found


def quoted(text: str) -> str:
    """The text as a value of a Modelfile."""
    if '"' not in text and "\n" not in text and text == text.strip() and text:
        return text
    return f'"""{text}"""'


def _value(text: str, position: int) -> tuple[str, int]:
    """The value at ``position``, and where the next line begins."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes, position):
            end = text.find(quotes, position + len(quotes))
            if end < 0:
                raise _wrong("a value's quotes don't end")
            after = text.find("\n", end)
            return text[position + len(quotes) : end], len(text) if after < 0 else after + 1
    end = text.find("\n", position)
    end = len(text) if end < 0 else end
    return text[position:end].strip(), end + 1


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"'modelfile': {why}.", param="modelfile")
