"""What a reply is made of, in the order in which it is written."""

from __future__ import annotations

import msgspec


class TextPart(msgspec.Struct, frozen=True):
    """A piece of the visible reply."""

    text: str


class ReasoningPart(msgspec.Struct, frozen=True):
    """A piece of what the model thinks before it replies."""

    text: str


class CallStart(msgspec.Struct, frozen=True):
    """A tool call begins; the next parts are its arguments."""

    name: str


class CallArguments(msgspec.Struct, frozen=True):
    """A piece of the call's arguments. Joined they are the JSON text of an object, once ``CallEnd`` has come."""

    text: str


class CallEnd(msgspec.Struct, frozen=True):
    """The call is whole. Without it, the call has broken off: the reply was cut, or its arguments aren't JSON."""


ReplyPart = TextPart | ReasoningPart | CallStart | CallArguments | CallEnd
