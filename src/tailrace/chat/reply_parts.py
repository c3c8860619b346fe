"""The parts of a reply, in the order in which they are written."""

from __future__ import annotations

import msgspec


class TextPart(msgspec.Struct, frozen=True):
    """A piece of the visible reply."""

    text: str


class ReasoningPart(msgspec.Struct, frozen=True):
    """A piece of the model's reasoning (thought)."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A tool call begins. The next parts are its arguments."""

    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """A piece of the call's arguments. All pieces up to ``CallEnd`` are the JSON text of an object."""

    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """The call is complete. Without this part the call is broken: the reply was cut, or its arguments aren't JSON."""


ReplyPart = TextPart | ReasoningPart | CallStart | CallArguments | CallEnd
