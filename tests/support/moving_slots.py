"""Slots of a backend whose states move in pieces, with steps of another slot between."""

from __future__ import annotations

import numpy as np

from tailrace.engine.backends.base import KVState, Logits, StateMove
from tailrace.engine.backends.llama import LlamaBackend

PROMPT = [3 + place * 37 % 250 for place in range(200)]
OTHERS = [3 + place * 53 % 250 for place in range(200)]


class MovingSlots:
    """Slots of a backend, of which one goes on with another text between pieces."""

    def __init__(self, backend: LlamaBackend, *, other: int = 3, others: int = 0) -> None:
        """``other``: the slot that goes on, which has read ``others`` tokens before."""
        self._backend = backend
        self._other = other
        self._others = 0
        for _ in range(others):
            self.go_on()

    def read(self, slot: int, tokens: list[int], start: int = 0) -> Logits:
        """The logits after the tokens. They are computed one by one, so a wrong cell shows in exact numbers."""
        logits = np.empty(0, np.float32)
        for place, token in enumerate(tokens):
            logits = self._backend.decode([token], [start + place], [slot], [0], 1)[0].copy()
        return logits

    def read_beside(self, tokens: list[int]) -> None:
        """Slot 0 reads the tokens in turn with the other slot, so that their cells lie between each other."""
        for place, token in enumerate(tokens):
            self.read(0, [token], place)
            self.go_on()

    def go_on(self) -> None:
        """A step of the other slot."""
        self.read(self._other, [OTHERS[self._others % len(OTHERS)]], self._others)
        self._others += 1

    def finish(self, move: StateMove | None) -> KVState:
        """Move the rest, with a step of the other slot before each piece."""
        assert move is not None
        pieces = 0
        while not move.done:
            self.go_on()
            move.advance()
            pieces += 1
        assert pieces >= 3 or not self._backend.rollback.has_cells
        assert move.state is not None
        return move.state

    def move(self) -> bool:
        """Slot 0, which holds ``PROMPT``, leaves the cache in pieces and comes back to slot 1, with the same numbers.
        False where this memory's states come back whole: it has left then, and nothing came.
        """
        backend = self._backend
        whole = backend.kv_save(0)
        state = self.finish(backend.kv_begin_save(0))
        assert np.array_equal(state, whole)
        expected = self.read(0, [7, 8, 9], len(PROMPT))
        backend.kv_truncate(0, 0)
        if not backend.rollback.has_cells:
            assert backend.kv_begin_load(1, state, len(PROMPT)) is None
            return False
        self.finish(backend.kv_begin_load(1, state, len(PROMPT)))
        assert np.array_equal(self.read(1, [7, 8, 9], len(PROMPT)), expected)
        return True
