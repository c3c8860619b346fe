"""Which states are kept outside of the KV cache, and which go when there are too many. Pure bookkeeping.

A state is what a finished (or paused) sequence had computed. The states themselves are the loop's; here are their
tokens, by which they are found again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


def common_prefix(a: list[int], b: list[int]) -> int:
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
class Kept:
    """A state is kept as ``key`` (None: it isn't worth it). ``dropped`` are the keys of those that it makes
    superfluous, ``spilled`` the keys and tokens of those for which there is no room any more.
    """

    key: int | None
    dropped: tuple[int, ...] = ()
    spilled: tuple[tuple[int, list[int]], ...] = ()


class KeptStates:
    """Token lists by key, least recently used first, of at most ``limit`` tokens in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[int, list[int]] = OrderedDict()
        self._tokens = 0
        self._keys = count(1)

    def __getitem__(self, key: int) -> list[int]:
        return self._states[key]

    def items(self) -> Iterator[tuple[int, list[int]]]:
        """Every key with its tokens."""
        return iter(self._states.items())

    def touch(self, key: int) -> None:
        """The state has been used."""
        self._states.move_to_end(key)

    def longest(self, tokens: list[int]) -> int:
        """Length of the longest beginning of ``tokens`` that a state has."""
        return max((common_prefix(held, tokens) for held in self._states.values()), default=0)

    def keep(self, tokens: list[int], wanted: int | None = None) -> Kept:
        """Keep these tokens' state, if that is worth it.

        The state ``wanted`` is about to be used and stays, at the cost of what would have taken its place.
        """
        size = len(tokens)
        covered = any(len(held) >= size and held[:size] == tokens for held in self._states.values())
        room = self._limit - (len(self._states[wanted]) if wanted is not None else 0)
        if covered or size > room:
            return Kept(None)
        if wanted is not None:
            self._states.move_to_end(wanted)
        # A conversation's next turn replaces the one before.
        dropped = [
            key
            for key, held in self._states.items()
            if key != wanted and len(held) <= size and tokens[: len(held)] == held
        ]
        for key in dropped:
            self._forget(key)
        spilled = []
        while self._tokens + size > self._limit:
            oldest = next(iter(self._states))
            spilled.append((oldest, self._forget(oldest)))
        key = next(self._keys)
        self._states[key] = tokens
        self._tokens += size
        return Kept(key, tuple(dropped), tuple(spilled))

    def _forget(self, key: int) -> list[int]:
        tokens = self._states.pop(key)
        self._tokens -= len(tokens)
        return tokens
