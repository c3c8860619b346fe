"""Turns tokens into text, and never splits a code point.

A token may end inside a UTF-8 character (byte tokens, emoji, CJK): its bytes wait for the rest. Invalid bytes become
U+FFFD. Bytes of a character that the reply's end cuts off are dropped.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from functools import cached_property

#: Characters of a token's text in the table. Longer tokens are decoded each time.
_MAX_TABLE_CHARACTERS = 4096


class PieceTable:
    """Each token's bytes, and its text where its bytes are complete characters (else None)."""

    def __init__(self, pieces: Sequence[bytes], names: Mapping[int, str] | None = None) -> None:
        """``names``: the names of tokens that are no text."""
        self.pieces = pieces
        self.names = names or {}
        self.texts = [_whole(piece) for piece in pieces]

    @cached_property
    def max_token_bytes(self) -> int:
        """Bytes of the longest token, names of special tokens included."""
        return max(map(len, (*self.pieces, *(name.encode() for name in self.names.values()))), default=1)

    def with_visible(self, texts: Mapping[int, str]) -> PieceTable:
        """The same table, in which these control tokens have text."""
        shown = PieceTable((), self.names)
        shown.pieces, shown.texts = list(self.pieces), list(self.texts)
        for token, text in texts.items():
            shown.pieces[token], shown.texts[token] = text.encode(), text
        return shown

    def __len__(self) -> int:
        return len(self.pieces)


class Detokenizer:
    """One reply's decoder."""

    __slots__ = ("_decoder", "_vocabulary", "pending")

    def __init__(self, vocabulary: PieceTable) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pending = False  #: bytes of an incomplete character wait

    def feed(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        if not self.pending:
            # Most tokens are complete characters: a list look-up replaces the decoder.
            text = self._vocabulary.texts[token]
            if text is not None:
                return text
        text = self._decoder.decode(self._vocabulary.pieces[token])
        self.pending = bool(self._decoder.getstate()[0])
        return text


def _whole(piece: bytes) -> str | None:
    if len(piece) > _MAX_TABLE_CHARACTERS:
        return None
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None
