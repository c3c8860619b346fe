"""DRY's sequence breakers: from the texts that a request names to tokens, as llama.cpp finds them.

A text may begin within one token and end in others: each token that has the whole text in it is a breaker, and each
token that ends with a beginning of the text is one together with the tokens of the text's rest.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: Bytes of a text, and tokens behind the first, that count: llama.cpp's.
_MAX_BYTES = 40
_MAX_TAIL = 20

Ids = npt.NDArray[np.int32]
#: For each list of tokens that a breaker has behind its first: which tokens may be that, in rising order.
Heads = dict[tuple[int, ...], Ids]


class Breakers:
    """The breakers of one request. Immutable, so requests share them."""

    __slots__ = ("_ends", "_heads", "_lengths", "single")

    def __init__(self, single: npt.NDArray[np.bool_], heads: Heads) -> None:
        """``single``: whether a token is a breaker by itself; ``heads``: the others."""
        self._heads = heads
        #: How many tokens breakers have behind their first.
        self._lengths = sorted({len(tail) for tail in self._heads})
        self.single = single
        self._ends = single.copy()
        self._ends[[tail[-1] for tail in self._heads]] = True

    def ending(self, tokens: Ids) -> int:
        """How many tokens the shortest breaker that ``tokens`` end with has behind its first; -1 where there is
        none.
        """
        if not self._ends[tokens[-1]]:
            return -1
        if self.single[tokens[-1]]:
            return 0
        last = tokens[-1 - self._lengths[-1] :].tolist()
        for length in self._lengths:
            if length < len(last) and (heads := self._heads.get(tuple(last[-length:]))) is not None:
                place = int(heads.searchsorted(last[-1 - length]))
                if place < len(heads) and heads[place] == last[-1 - length]:
                    return length
        return -1

    def ends(self, tokens: Ids) -> list[int]:
        """Places of ``tokens`` at which a breaker may end, the last first."""
        places: list[int] = self._ends[tokens].nonzero()[0][::-1].tolist()
        return places


class BreakerIndex:
    """A vocabulary in which the tokens of a text are found without looking at each of them."""

    def __init__(self, texts: Seq[bytes], tokenize: Callable[[str], list[int]]) -> None:
        """``texts``: each token's; ``tokenize`` gives the tokens of a text that stands within others."""
        self._tokenize = tokenize
        self._size = len(texts)
        self._lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self._ends = self._lengths.cumsum()
        self._bytes = np.frombuffer(b"".join(texts), np.uint8)
        self._frequency = np.bincount(self._bytes, minlength=256)
        filled = self._lengths.nonzero()[0]
        last = self._bytes[self._ends[filled] - 1]
        order = last.argsort(kind="stable")
        self._by_last_byte = np.split(filled[order], np.searchsorted(last[order], np.arange(1, 256)))
        # The texts that clients send are few. One takes up to four bytes for each token.
        self._heads = lru_cache(32)(self._find)
        self.breakers = lru_cache(16)(self._breakers)

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        """The breakers for these texts. Empty ones say nothing."""
        single = np.zeros(self._size, bool)
        heads: Heads = {}
        for text in filter(None, texts):
            for tail, found in self._heads(text).items():
                if tail:
                    heads[tail] = np.union1d(heads[tail], found) if tail in heads else found
                else:
                    single[found] = True
        return Breakers(single, heads)

    def _find(self, text: str) -> Heads:
        sought = text.encode("utf-8", "replace")[:_MAX_BYTES]
        whole = self._containing(sought)
        contains = np.zeros(self._size, bool)
        contains[whole] = True
        heads: Heads = {(): whole.astype(np.int32)}
        for length in range(1, len(sought)):
            found = self._ending_with(sought[:length])
            found = found[~contains[found]]
            if len(found):
                tail = tuple(self._tokenize(sought[length:].decode("utf-8", "replace"))[:_MAX_TAIL])
                ids = found.astype(np.int32)
                heads[tail] = np.union1d(heads[tail], ids) if tail in heads else ids
        return heads

    def _containing(self, sought: bytes) -> npt.NDArray[np.int64]:
        """Tokens with ``sought`` in their text."""
        # By the rarest of its bytes: a pass over the vocabulary's text, and little more.
        anchor = min(range(len(sought)), key=lambda at: self._frequency[sought[at]])
        starts = (self._bytes == sought[anchor]).nonzero()[0] - anchor
        starts = starts[(starts >= 0) & (starts + len(sought) <= len(self._bytes))]
        for at, value in enumerate(sought):
            starts = starts[self._bytes[starts + at] == value]
        tokens = self._ends.searchsorted(starts, side="right")
        return np.unique(tokens[starts + len(sought) <= self._ends[tokens]])

    def _ending_with(self, sought: bytes) -> npt.NDArray[np.int64]:
        """Tokens whose text ends with ``sought``."""
        tokens: npt.NDArray[np.int64] = self._by_last_byte[sought[-1]]
        tokens = tokens[self._lengths[tokens] >= len(sought)]
        for back, value in enumerate(sought[-2::-1], start=2):
            tokens = tokens[self._bytes[self._ends[tokens] - back] == value]
        return tokens
