"""Tokens to text, never splitting a code point.

A token may end inside a UTF-8 character (byte tokens, emoji, CJK): its bytes wait for the rest. Bytes that can't become
a character any more are shown as U+FFFD, as every decoder does; bytes cut off by the reply's end are dropped.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from functools import cached_property

#: Longer tokens are decoded each time: whoever takes a text from the table needn't look at its length.
_MAX_TABLE_CHARACTERS = 4096


class PieceTable:
    """Each token's bytes, and its text where those bytes are whole characters by themselves, not too many."""

    def __init__(self, pieces: Sequence[bytes], names: Mapping[int, str] | None = None) -> None:
        """``names`` are those of tokens that are no text."""
        self.pieces = pieces
        self.names = names or {}
        self.texts = [_whole(piece) for piece in pieces]

    @cached_property
    def longest(self) -> int:
        """Bytes that one token of a text stands for, at most."""
        return max(map(len, (*self.pieces, *(name.encode() for name in self.names.values()))), default=1)

    def showing(self, texts: Mapping[int, str]) -> PieceTable:
        """The same with these tokens, which are no text otherwise, as text."""
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
        self.pending = False  #: the bytes of an unfinished character wait

    def feed(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is unfinished."""
        if not self.pending:
            # Nine tokens in ten are whole characters: a list look-up instead of a decoder.
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
