"""What samplers have to know of a model's vocabulary. Made with the first request that needs it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cached_property
from weakref import WeakKeyDictionary

from tailrace.engine.backends.base import Backend
from tailrace.engine.sampling.dry_breakers import BreakerIndex, Breakers
from tailrace.engine.tokenising.jobs import TokenizerInput


class SamplingVocabulary:
    """The tokens that some samplers treat otherwise than others."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.pieces: Seq[bytes] = backend.vocabulary  #: each token's text; empty for control tokens
        self.end_tokens = backend.end_tokens
        #: The token that a reply ends with.
        self.eot_token = backend.eot_token if backend.eot_token is not None else min(backend.end_tokens, default=0)
        self.newline = backend.newline_token

    def breakers(self, texts: tuple[str, ...]) -> Breakers:
        """DRY's sequence breakers for ``texts``."""
        return self._index.breakers(texts)

    @cached_property
    def _index(self) -> BreakerIndex:
        backend, names = self._backend, self._backend.info.special_tokens
        texts = [piece or names.get(token, "").encode() for token, piece in enumerate(backend.vocabulary)]
        if backend.strips_leading_space:
            texts = [text.removeprefix(b" ") for text in texts]
        return BreakerIndex(texts, self._cut)

    def _cut(self, text: str) -> list[int]:
        """The tokens of a breaker's rest, cut as the model does, or where that isn't safe into the longest."""
        if self._backend.can_tokenize_inline([TokenizerInput(text, parse_special=False, add_special=False)]):
            return self._backend.tokenize_fragment(text)
        data = text.encode("utf-8", "replace")
        tokens: list[int] = []
        start = 0
        while start < len(data):
            stop = next((end for end in range(len(data), start, -1) if data[start:end] in self._by_piece), start + 1)
            tokens.append(self._by_piece.get(data[start:stop], self.eot_token))
            start = stop
        return tokens

    @cached_property
    def _by_piece(self) -> dict[bytes, int]:
        return {piece: token for token, piece in enumerate(self.pieces) if piece}


_of: WeakKeyDictionary[Backend, SamplingVocabulary] = WeakKeyDictionary()


def vocabulary_of(backend: Backend) -> SamplingVocabulary:
    """The backend's, which stays the same."""
    if (known := _of.get(backend)) is None:
        known = _of[backend] = SamplingVocabulary(backend)
    return known
