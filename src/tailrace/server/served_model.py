"""The model that an engine serves: its chat format, and the changes of the name under which a client asks for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import msgspec

from tailrace.chat.chat_format import ChatFormat
from tailrace.chat.messages import Message
from tailrace.protocol import Hello, ModelInfo

#: Facts of a model on which its chat format depends.
_FORMAT = ("chat_template", "chat_template_defect", "bos_token", "eos_token", "special_tokens")


class Overrides(Protocol):
    """What a name that was made of the model, or its settings, change in conversations and requests."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Ollama's options for requests that don't set them."""
        ...

    def fill(self, request: msgspec.Struct) -> None:
        """Set the fields that a request leaves out."""
        ...

    def begin(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation with the name's own messages in front."""
        ...


class ServedModel(ChatFormat):
    """The model of one Hello. ``name``: the served model's, also where clients use another name for it."""

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello.model, hello.vocabulary)
        self.name = hello.name
        names = (name.encode() for name in hello.model.special_tokens.values())
        self.max_token_bytes = max(1, *map(len, hello.vocabulary), *map(len, names))  #: bytes of the longest token
        self.overrides: Overrides | None = None  #: of a name that was made of this model

    def renewed(self, hello: Hello) -> ServedModel:
        """The model of another engine's Hello: this one where nothing has changed. A copy shares the chat format where
        that is the same, which takes a hundredth of the time to make it.
        """
        same = all(getattr(hello.model, fact) == getattr(self.info, fact) for fact in _FORMAT)
        if not same or hello.name != self.name or hello.vocabulary != self.vocabulary.pieces:
            return ServedModel(hello)
        return self if hello.model == self.info else self.with_info(hello.model)

    def with_info(self, info: ModelInfo) -> Self:
        """A copy with other facts that share the chat format: another load has another KV cache."""
        changed = copy.copy(self)
        changed.info = info
        return changed

    def shares_format(self, other: ServedModel) -> bool:
        """Whether both have the same vocabulary and template."""
        return self.vocabulary is other.vocabulary and self.template is other.template
