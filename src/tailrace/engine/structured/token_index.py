"""Finds a vocabulary's tokens by their bytes, with white space left out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_NO_SPACE = (None, b" \t\r\n")
#: Texts whose containing tokens are cached.
_MAX_CACHED_TEXTS = 1024


class TokenIndex:
    """One for a vocabulary, for one thread at a time."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """``pieces``: each token's bytes; empty for control tokens."""
        self.pieces = pieces
        self._sorted = sorted((piece.translate(*_NO_SPACE), token) for token, piece in enumerate(pieces) if piece)
        self._containing: dict[bytes, list[int]] = {}
        self.max_token_bytes = max(map(len, pieces), default=0)

    def starting_with(self, text: bytes) -> list[int]:
        """Tokens that begin with ``text``, white space aside."""
        text = text.translate(*_NO_SPACE)
        found: list[int] = []
        for place in range(bisect_left(self._sorted, (text, -1)), len(self._sorted)):
            piece, token = self._sorted[place]
            if not piece.startswith(text):
                break
            found.append(token)
        return found

    def containing(self, text: bytes) -> list[int]:
        """Tokens that contain ``text``, white space aside."""
        text = text.translate(*_NO_SPACE)
        if len(self._containing) > _MAX_CACHED_TEXTS:
            self._containing.clear()
        found = self._containing.get(text)
        if found is None:
            found = [token for piece, token in self._sorted if text in piece]
            self._containing[text] = found
        return found
