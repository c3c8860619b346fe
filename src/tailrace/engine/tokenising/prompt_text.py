"""What is tokenised, and what comes of it: also the messages between the engine and the process that tokenises."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.engine.tokenising.special_tokens import Ranges
from tailrace.protocol import RefusedField


class PromptText(msgspec.Struct, frozen=True, array_like=True):
    """One text of a request."""

    text: str
    field: RefusedField = "prompt"  #: which of the request's fields it is
    special: bool = True  #: whether control tokens are recognised
    start: bool | None = None  #: as in ``Backend.tokenize``
    plain: Ranges = ()  #: ranges of characters in which no control token is recognised


class Job(msgspec.Struct, frozen=True, array_like=True):
    """Tokenise these, in order."""

    texts: Sequence[PromptText]


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """One text's tokens, as native 32-bit integers."""

    data: bytes


def size_of(texts: Sequence[PromptText]) -> int:
    """How many characters they have together."""
    return sum(len(text.text) for text in texts)
