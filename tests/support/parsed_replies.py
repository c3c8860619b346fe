"""Replies through a family's parser, in whatever pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailrace.chat.families.base import Family
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.tools import Function
from tailrace.prompt_text import PromptText


@dataclass
class Call:
    """One call with its arguments joined."""

    name: str
    arguments: str = ""
    whole: bool = False


def offered(functions: Sequence[str] | Mapping[str, Any]) -> dict[str, Function]:
    """Functions by name; a mapping gives their schemas."""
    schemas = functions if isinstance(functions, Mapping) else dict.fromkeys(functions)
    return {name: Function(name=name, parameters=schema) for name, schema in schemas.items()}


def parse(
    family: Family, pieces: Sequence[str], *, prompt: str = "", functions: Sequence[str] | Mapping[str, Any] = ()
) -> list[ReplyPart]:
    """All parts, as they come."""
    parser = family.parser(PromptText(prompt), offered(functions))
    return [part for piece in pieces for part in parser.feed(piece)] + parser.finish()


def joined(parts: Sequence[ReplyPart]) -> list[TextPart | ReasoningPart | Call]:
    """Neighbours of a kind, and what belongs to a call, as one. Fails on parts in an order that can't be."""
    out: list[TextPart | ReasoningPart | Call] = []
    for part in parts:
        last = out[-1] if out else None
        if isinstance(part, TextPart):
            out[-1:] = [TextPart(last.text + part.text)] if isinstance(last, TextPart) else [*out[-1:], part]
        elif isinstance(part, ReasoningPart):
            out[-1:] = [ReasoningPart(last.text + part.text)] if isinstance(last, ReasoningPart) else [*out[-1:], part]
        elif isinstance(part, CallStart):
            out.append(Call(part.name))
        else:
            assert isinstance(last, Call), part
            assert not last.whole, part
            if isinstance(part, CallArguments):
                last.arguments += part.text
            assert isinstance(part, CallArguments | CallEnd)
            last.whole = isinstance(part, CallEnd)
    return out


def split_anywhere(
    family: Family, reply: str, *, prompt: str = "", functions: Sequence[str] | Mapping[str, Any] = ()
) -> Iterator[list[TextPart | ReasoningPart | Call]]:
    """The parsed reply: fed in one piece, in single characters, and in two pieces split at every position."""
    for pieces in ([reply], list(reply), *([reply[:at], reply[at:]] for at in range(1, len(reply)))):
        yield joined(parse(family, pieces, prompt=prompt, functions=functions))
