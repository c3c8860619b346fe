"""DRY's sequence breakers: from the texts that a request names to tokens, as llama.cpp finds them.

A text may begin within one token and end in others. A token that contains the whole text is a breaker by itself. A
token that ends with a beginning of the text is a breaker together with the tokens of the text's rest, its tail.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling.logits_ops.arrays import Int32Array

#: llama.cpp's limits: bytes of a text, and tokens of a tail.
_MAX_BYTES = 40
_MAX_TAIL = 20

#: For each tail, the tokens that may come before it, in rising order.
Heads = dict[tuple[int, ...], Int32Array]


class Breakers:
    """The breakers of one request. Immutable, so requests share them."""

    __slots__ = ("_can_end", "_heads", "_tail_lengths", "single")

    def __init__(self, single: npt.NDArray[np.bool_], heads: Heads) -> None:
        """``single[t]``: token t is a breaker by itself. ``heads``: the breakers of several tokens."""
        self._heads = heads
        self._tail_lengths = sorted({len(tail) for tail in self._heads})
        self.single = single
        self._can_end = single.copy()
        self._can_end[[tail[-1] for tail in self._heads]] = True

    def tail_at_end(self, tokens: Int32Array) -> int:
        """The tail's length of the shortest breaker that ``tokens`` end with; -1 if there is none."""
        if not self._can_end[tokens[-1]]:
            return -1
        if self.single[tokens[-1]]:
            return 0
        last = tokens[-1 - self._tail_lengths[-1] :].tolist()
        for length in self._tail_lengths:
            if length < len(last) and (heads := self._heads.get(tuple(last[-length:]))) is not None:
                index = int(heads.searchsorted(last[-1 - length]))
                if index < len(heads) and heads[index] == last[-1 - length]:
                    return length
        return -1

    def possible_ends(self, tokens: Int32Array) -> list[int]:
        """The positions in ``tokens`` at which a breaker may end, the last first."""
        positions: list[int] = self._can_end[tokens].nonzero()[0][::-1].tolist()
        return positions


class BreakerIndex:
    """An index of a vocabulary's bytes that finds a text's tokens without a look at each token."""

    def __init__(self, texts: Seq[bytes], tokenize: Callable[[str], list[int]]) -> None:
        """``texts`` has each token's text. ``tokenize`` gives the tokens of a text that stands within another."""
        self._tokenize = tokenize
        self._size = len(texts)
        self._lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self._ends = self._lengths.cumsum()
        self._bytes = np.frombuffer(b"".join(texts), np.uint8)
        self._byte_counts = np.bincount(self._bytes, minlength=256)
        not_empty = self._lengths.nonzero()[0]
        last_bytes = self._bytes[self._ends[not_empty] - 1]
        order = last_bytes.argsort(kind="stable")
        self._by_last_byte = np.split(not_empty[order], np.searchsorted(last_bytes[order], np.arange(1, 256)))
        # Clients send few different texts. One takes up to four bytes for each token.
        self._heads = lru_cache(32)(self._find_heads)
        self.breakers = lru_cache(16)(self._breakers)

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        """The breakers for these texts. Empty texts are skipped."""
        single = np.zeros(self._size, bool)
        heads: Heads = {}
        for text in filter(None, texts):
            for tail, found in self._heads(text).items():
                if tail:
                    heads[tail] = np.union1d(heads[tail], found) if tail in heads else found
                else:
                    single[found] = True
        return Breakers(single, heads)

    def _find_heads(self, text: str) -> Heads:
        data = text.encode("utf-8", "replace")[:_MAX_BYTES]
        whole = self._containing(data)
        contains = np.zeros(self._size, bool)
        contains[whole] = True
        heads: Heads = {(): whole.astype(np.int32)}
        for length in range(1, len(data)):
            found = self._ending_with(data[:length])
            found = found[~contains[found]]
            if len(found):
                tail = tuple(self._tokenize(data[length:].decode("utf-8", "replace"))[:_MAX_TAIL])
                ids = found.astype(np.int32)
                heads[tail] = np.union1d(heads[tail], ids) if tail in heads else ids
        return heads

    def _containing(self, data: bytes) -> npt.NDArray[np.int64]:
        """The tokens with ``data`` in their text."""
        # Searched by the rarest of its bytes: one pass over the vocabulary's text, and little more.
        anchor = min(range(len(data)), key=lambda at: self._byte_counts[data[at]])
        starts = (self._bytes == data[anchor]).nonzero()[0] - anchor
        starts = starts[(starts >= 0) & (starts + len(data) <= len(self._bytes))]
        for at, value in enumerate(data):
            starts = starts[self._bytes[starts + at] == value]
        tokens = self._ends.searchsorted(starts, side="right")
        return np.unique(tokens[starts + len(data) <= self._ends[tokens]])

    def _ending_with(self, data: bytes) -> npt.NDArray[np.int64]:
        """The tokens whose text ends with ``data``."""
        tokens: npt.NDArray[np.int64] = self._by_last_byte[data[-1]]
        tokens = tokens[self._lengths[tokens] >= len(data)]
        for back, value in enumerate(data[-2::-1], start=2):
            tokens = tokens[self._bytes[self._ends[tokens] - back] == value]
        return tokens
