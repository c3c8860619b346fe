"""The prefix cache in host memory: tokens of offloaded states by key, least recently used first. Pure accounting.

A state is the KV cache content of a finished or paused sequence. The states' bytes are the executor's; this module has
the tokens by which they are found.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, KeysView
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from tailrace.engine.kv_cache.eviction import LruIndex

Tokens = TypeVar("Tokens", list[int], bytes)


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix, by bisection over slice comparisons (each runs in C)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class OffloadResult:
    """What happens to states in host memory when one more is offered.

    The new one gets ``key``; None: it isn't stored. ``superseded``: keys of states that are prefixes of the new one.
    ``evicted``: keys and tokens of states that have to leave host memory for it.
    """

    key: int | None
    superseded: tuple[int, ...] = ()
    evicted: tuple[tuple[int, list[int]], ...] = ()


class PrefixStore:
    """Token lists by key, of at most ``max_tokens`` tokens in all. A state counts ``state_tokens`` beside its own."""

    def __init__(self, max_tokens: int, state_tokens: int = 0) -> None:
        self._max_tokens = max_tokens
        self._state_tokens = state_tokens
        self._tokens: dict[int, list[int]] = {}
        self._lru: LruIndex[int] = LruIndex()
        self._keys = count(1)
        self._lent: set[int] = set()  #: a state that is larger than the store

    def __getitem__(self, key: int) -> list[int]:
        return self._tokens[key]

    def size(self, key: int) -> int:
        """What the state takes, in tokens; 0 where a later state has replaced it already."""
        return len(self._tokens[key]) + self._state_tokens if key in self._tokens else 0

    @property
    def free_tokens(self) -> int:
        """Tokens for which there is space without an eviction."""
        return max(0, self._max_tokens - self._lru.total)

    def keys(self) -> KeysView[int]:
        """The keys, in no order."""
        return self._tokens.keys()

    def items(self) -> Iterator[tuple[int, list[int]]]:
        """Every key with its tokens, least recently used first."""
        return ((key, self._tokens[key]) for key in self._lru)

    def touch(self, key: int) -> None:
        """The state was used."""
        self._lru.touch(key)

    def takes(self, tokens: list[int]) -> bool:
        """Whether ``offload`` would store the state of these tokens, but for a pinned one."""
        length = len(tokens)
        covered = any(len(stored) >= length and stored[:length] == tokens for stored in self._tokens.values())
        return not covered and length + self._state_tokens <= self._max_tokens

    def offload(self, tokens: list[int], pinned_key: int | None = None) -> OffloadResult:
        """Store the state of these tokens, unless a stored one covers them or they are too many.

        The state ``pinned_key`` is about to be loaded and is never evicted.
        """
        length = len(tokens)
        size = length + self._state_tokens
        pinned = self.size(pinned_key) if pinned_key is not None and not self.is_lent(pinned_key) else 0
        capacity = self._max_tokens - pinned
        if not self.takes(tokens) or size > capacity:
            return OffloadResult(None)
        if pinned_key is not None:
            self._lru.touch(pinned_key)
        # A conversation's next turn replaces the one before.
        superseded = [
            key
            for key, stored in self.items()
            if key != pinned_key and len(stored) <= length and tokens[: len(stored)] == stored
        ]
        for key in superseded:
            self.forget(key)
        evicted = tuple((key, self.forget(key)) for key in self._lru.victims(self._max_tokens - size))
        key = next(self._keys)
        self._tokens[key] = tokens
        self._lru.add(key, size)
        return OffloadResult(key, tuple(superseded), evicted)

    def lend(self, tokens: list[int]) -> OffloadResult | None:
        """Take in a state that is larger than the whole store, until a sequence has loaded it. There is one at a time.

        None where it isn't larger: ``offload`` takes it.
        """
        if len(tokens) + self._state_tokens <= self._max_tokens:
            return None
        earlier = tuple(self._lent)
        for key in earlier:
            self.forget(key)
        key = next(self._keys)
        self._tokens[key] = tokens
        self._lru.add(key, 0)
        self._lent.add(key)
        return OffloadResult(key, earlier)

    def is_lent(self, key: int) -> bool:
        """Whether the state is there for one sequence."""
        return key in self._lent

    def forget(self, key: int) -> list[int]:
        """Remove the state; its tokens."""
        self._lru.remove(key)
        self._lent.discard(key)
        return self._tokens.pop(key)

    def discard(self, key: int) -> None:
        """Remove the state, if it is there."""
        if key in self._tokens:
            self.forget(key)

    def retain(self, keys: Container[int]) -> None:
        """Forget all states but these."""
        for key in [key for key in self._tokens if key not in keys]:
            self.forget(key)
