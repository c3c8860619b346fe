"""What samplers must know of a model's vocabulary. Made with the first request that needs it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import cached_property
from weakref import WeakKeyDictionary

from tailrace.engine.backends.base import Backend
from tailrace.engine.sampling.dry_breakers import BreakerIndex, Breakers
from tailrace.engine.tokenising.jobs import TokenizerInput


class SamplingVocabulary:
    """The tokens that some samplers treat differently from others, and DRY's sequence breakers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.pieces: Seq[bytes] = backend.vocabulary  #: each token's text; empty for control tokens
        self.end_tokens = backend.end_tokens
        #: The token that a reply ends with.
        self.eot_token = backend.eot_token if backend.eot_token is not None else min(backend.end_tokens, default=0)
        self.newline = backend.newline_token

    def breakers(self, texts: tuple[str, ...]) -> Breakers:
        """DRY's sequence breakers for ``texts``."""
        return self._breaker_index.breakers(texts)

    @cached_property
    def _breaker_index(self) -> BreakerIndex:
        backend, names = self._backend, self._backend.info.special_tokens
        texts = [piece or names.get(token, "").encode() for token, piece in enumerate(backend.vocabulary)]
        if backend.strips_leading_space:
            texts = [text.removeprefix(b" ") for text in texts]
        return BreakerIndex(texts, self._tokenize_fragment)

    def _tokenize_fragment(self, text: str) -> list[int]:
        """The tokens of a breaker's tail, by the model's tokenizer. Where that isn't safe: the longest tokens."""
        if self._backend.can_tokenize_inline([TokenizerInput(text, parse_special=False, add_special=False)]):
            return self._backend.tokenize_fragment(text)
        data = text.encode("utf-8", "replace")
        tokens: list[int] = []
        start = 0
        while start < len(data):
            stop = next(
                (end for end in range(len(data), start, -1) if data[start:end] in self._token_of_piece), start + 1
            )
            tokens.append(self._token_of_piece.get(data[start:stop], self.eot_token))
            start = stop
        return tokens

    @cached_property
    def _token_of_piece(self) -> dict[bytes, int]:
        return {piece: token for token, piece in enumerate(self.pieces) if piece}


_by_backend: WeakKeyDictionary[Backend, SamplingVocabulary] = WeakKeyDictionary()


def sampling_vocabulary(backend: Backend) -> SamplingVocabulary:
    """The vocabulary of ``backend``: one object for all its requests."""
    if (known := _by_backend.get(backend)) is None:
        known = _by_backend[backend] = SamplingVocabulary(backend)
    return known
