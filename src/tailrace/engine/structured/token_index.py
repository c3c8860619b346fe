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
        self._sorted = _sorted(pieces)
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


def _sorted(pieces: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """The pieces without white space, with their tokens. They are sorted in parts: a sort keeps other threads waiting,
    and one of 150,000 pieces takes 100 ms.
    """
    parts: dict[bytes, list[tuple[bytes, int]]] = {}
    for token, piece in enumerate(pieces):
        if piece:
            bare = piece.translate(*_NO_SPACE)
            parts.setdefault(bare[:2], []).append((bare, token))
    return [entry for start in sorted(parts) for entry in sorted(parts[start])]
