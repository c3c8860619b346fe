"""A prompt's text together with the spans in which special tokens' names are only text.

A client may write the name of a special token, ``<|im_end|>`` for example. The tokenizer can't tell its author, so a
prompt carries the spans of the names that are only text. The type is no ``str``: operations of ``str`` would drop the
spans, so they are type errors.
"""

from __future__ import annotations

from typing import NoReturn, Self

import msgspec

#: Start and end of a range of characters.
Span = tuple[int, int]


class PromptText(msgspec.Struct, frozen=True, omit_defaults=True):
    """Text whose special tokens are recognised, except within ``literal_spans``, which rise and don't overlap."""

    text: str
    literal_spans: tuple[Span, ...] = ()

    def append_literal(self, text: str) -> Self:
        """The prompt followed by ``text`` of a client: no special token is recognised there."""
        if not text:
            return self
        end = len(self.text)
        spans = (*self.literal_spans, (end, end + len(text)))
        return msgspec.structs.replace(self, text=self.text + text, literal_spans=spans)

    def append_markup(self, text: str) -> Self:
        """The prompt followed by ``text`` of the model's family: its special tokens are recognised."""
        return msgspec.structs.replace(self, text=self.text + text)

    def slice(self, start: int = 0, stop: int | None = None) -> PromptText:
        """The characters from ``start`` to ``stop``. A span that is cut stays literal as far as it is left."""
        text = self.text[start:stop]
        end = start + len(text)
        spans = (
            (max(first, start) - start, min(last, end) - start)
            for first, last in self.literal_spans
            if first < end and last > start
        )
        return PromptText(text, tuple(spans))

    def concat(self, other: PromptText) -> PromptText:
        """This prompt followed by ``other``."""
        offset = len(self.text)
        moved = ((first + offset, last + offset) for first, last in other.literal_spans)
        return PromptText(self.text + other.text, (*self.literal_spans, *moved))

    def __str__(self) -> NoReturn:
        """Not defined: a ``str`` has no spans. ``text`` says that they aren't wanted."""
        raise TypeError("a prompt's literal spans would be lost; use 'text' where they don't matter")

    def __format__(self, form: str) -> NoReturn:
        """See ``__str__``."""
        str(self)
        raise AssertionError("unreachable")
