"""Which states are kept outside of the KV cache, and which go when there are too many. Pure bookkeeping.

A state is what a finished (or paused) sequence had computed. The states themselves are the loop's; here are their
tokens, by which they are found again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count


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

    def keep(self, tokens: list[int], wanted: int | None) -> tuple[int | None, tuple[int, ...]]:
        """A key for these tokens' state, or None if it isn't worth keeping; and the keys that are forgotten for it.

        The state ``wanted`` is about to be used and stays, at the cost of what would have taken its place.
        """
        size = len(tokens)
        covered = any(len(held) >= size and held[:size] == tokens for held in self._states.values())
        room = self._limit - (len(self._states[wanted]) if wanted is not None else 0)
        if covered or size > room:
            return None, ()
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
        while self._tokens + size > self._limit:
            oldest = next(iter(self._states))
            self._forget(oldest)
            dropped.append(oldest)
        key = next(self._keys)
        self._states[key] = tokens
        self._tokens += size
        return key, tuple(dropped)

    def _forget(self, key: int) -> None:
        self._tokens -= len(self._states.pop(key))
