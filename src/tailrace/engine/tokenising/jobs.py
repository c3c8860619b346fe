"""Tokenisation jobs and their results: also the messages between the engine and the process that tokenises."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.prompt_text import PromptText, Span
from tailrace.protocol import RefusedField


class TokenizerInput(msgspec.Struct, frozen=True, array_like=True):
    """One text of a request."""

    text: str
    field: RefusedField = "prompt"  #: which of the request's fields it is
    parse_special: bool = True  #: whether control tokens are recognised
    add_special: bool | None = None  #: as ``start`` of ``Backend.tokenize``
    literal_spans: tuple[Span, ...] = ()  #: ranges of characters in which no control token is recognised

    @classmethod
    def of_prompt(
        cls, prompt: PromptText, *, parse_special: bool = True, add_special: bool | None = None
    ) -> TokenizerInput:
        """A prompt, with its literal spans."""
        return cls(
            prompt.text, parse_special=parse_special, add_special=add_special, literal_spans=prompt.literal_spans
        )


class TokenizeJob(msgspec.Struct, frozen=True, array_like=True):
    """Tokenise these, in order."""

    texts: Sequence[TokenizerInput]


class TokenIds(msgspec.Struct, frozen=True, array_like=True):
    """One text's tokens, as native 32-bit integers."""

    data: bytes


def total_characters(texts: Sequence[TokenizerInput]) -> int:
    """How many characters the texts have together."""
    return sum(len(text.text) for text in texts)
