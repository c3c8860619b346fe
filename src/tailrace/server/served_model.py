"""The model that an engine serves: its chat format, and the changes of the name under which a client asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tailrace.chat.chat_format import ChatFormat
from tailrace.chat.messages import Message
from tailrace.protocol import Hello


class Overrides(Protocol):
    """What a name that was made of the model changes in conversations."""

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with the name's own messages in front."""
        ...


class ServedModel(ChatFormat):
    """The model of one Hello."""

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello.model, hello.vocabulary)
        names = (name.encode() for name in hello.model.special_tokens.values())
        self.max_token_bytes = max(1, *map(len, hello.vocabulary), *map(len, names))  #: bytes of the longest token
        self.overrides: Overrides | None = None  #: of a name that was made of this model
