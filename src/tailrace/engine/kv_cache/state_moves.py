"""Moves that are in progress: states that leave slots for host memory, and come back, piece by piece between steps.

Every piece is bounded, so replies wait little for it. The accounting (``cache``) says what moves; a move whose slot has
meanwhile changed there is dropped here before any other op touches the slot. One piece moves at a time.
"""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from tailrace.engine.backends.base import Backend, KVState, StateMove
from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import Leaving
from tailrace.machine.free_memory import MemoryGauge

#: Seconds for which replies may wait for a copy while another caller waits for its end. Beside them that caller would
#: wait for a step or more.
_AT_ONCE_SECONDS = 0.015
#: Each piece of a copy takes two moves: its memory is touched before.
_MOVES_A_PIECE = 2
#: The weight of the newest move's time.
_WEIGHT = 0.1


@dataclass(slots=True)
class Moved:
    """``more``: whether anything is left to move. ``ended``: whether a move has ended, for which a sequence may wait.
    ``lost``: slots that are empty because the rest of their state couldn't be loaded.
    """

    more: bool = False
    ended: bool = False
    lost: set[int] = field(default_factory=set)


class StateMoves:
    """The moves of one backend's slots."""

    def __init__(self, backend: Backend, cache: KVCache, gauge: MemoryGauge) -> None:
        self._backend = backend
        self._cache = cache
        self._gauge = gauge
        self._loads: dict[int, StateMove] = {}  #: by slot
        self._save: tuple[Leaving, StateMove | None] | None = None  #: without a move there is no memory for it
        self._move_seconds = 0.0  #: of a piece of a copy; 0: none was measured

    @property
    def loading_slots(self) -> tuple[int, ...]:
        """The slots that are being loaded."""
        return tuple(self._loads)

    def advance(self, seconds: float) -> Moved:
        """Move a piece, and more until ``seconds`` have passed."""
        self.drop_stale()
        moved = Moved()
        end = time.monotonic() + seconds
        while self._advance_load(moved) or self._advance_save(moved) or self._backend.kv_settle():
            if time.monotonic() >= end:
                moved.more = True
                break
        return moved

    def drop_stale(self, kept: AbstractSet[int] = frozenset()) -> None:
        """Empty the slots of loads that the accounting has given up, but for those of ``kept``, and forget a copy that
        isn't wanted any more.
        """
        for slot in [slot for slot in self._loads if slot not in self._cache.loading and slot not in kept]:
            del self._loads[slot]
            self._backend.kv_truncate(slot, 0)
        if self._save is not None and not self._save[0].wanted:
            self._save = None

    def begin_load(self, slot: int, state: KVState, length: int) -> bool:
        """Load the first ``length`` positions of ``state`` into the empty slot in pieces. False: only as a whole."""
        is_short = state.size <= self._cache.piece_tokens * self._backend.bytes_per_cell
        if is_short or (move := self._backend.kv_begin_load(slot, state, length)) is None:
            return False
        self._loads[slot] = move
        self._cache.loading.add(slot)
        return True

    def finish_load(self, slot: int) -> bool:
        """Load the rest of the slot's state at once, because another op of the same plan needs it. False: the slot is
        empty now. True also where nothing is being loaded into it.
        """
        move = self._loads.pop(slot, None)
        if move is None:
            return True
        while not move.done:
            move.advance()
        self._cache.loading.discard(slot)
        return move.state is not None

    def give_up_load(self, slot: int) -> None:
        """Load no more into the slot, which has been emptied."""
        if self._loads.pop(slot, None) is not None:
            self._cache.loading.discard(slot)

    def give_up_loads(self) -> set[int]:
        """Empty the slots of all loads; returns these slots."""
        self._cache.loading.clear()
        given_up = set(self._loads)
        self.drop_stale()
        return given_up

    def take_copy(self, leaving: Leaving | None) -> KVState | None:
        """The state that was copied for this eviction, once the rest of it is; None where there is none."""
        if leaving is None or self._save is None or self._save[0] is not leaving:
            return None
        move, self._save = self._save[1], None
        while move is not None and not move.done:
            move.advance()
        return None if move is None else move.state

    def _advance_load(self, moved: Moved) -> bool:
        """Load a piece. False where there was nothing to load."""
        if not self._loads:
            return False
        slot, move = next(iter(self._loads.items()))
        move.advance()
        if move.done:
            del self._loads[slot]
            self._cache.loading.discard(slot)
            moved.ended = True
            if move.state is None:
                moved.lost.add(slot)
        return True

    def _advance_save(self, moved: Moved) -> bool:
        """Copy a piece of the slot that is to be evicted. False where there was nothing to copy."""
        leaving = self._cache.leaving
        if leaving is None or leaving.copied:
            return False
        if self._save is None or self._save[0] is not leaving:
            self._save = leaving, self._begin_save(leaving)
        move = self._save[1]
        if move is not None:
            begun = time.monotonic()
            move.advance()
            self._observe(time.monotonic() - begun)
            leaving.pieces += 1 / _MOVES_A_PIECE
            if not leaving.begun and move.state is not None:
                leaving.begun = True
                leaving.tokens = len(self._cache.slots[leaving.slot].tokens)
        leaving.copied = moved.ended = move is None or move.done
        return True

    def _observe(self, seconds: float) -> None:
        """A piece of a copy took so long."""
        known = self._move_seconds or seconds
        self._move_seconds = known + _WEIGHT * (seconds - known)
        self._cache.pieces_at_once = int(_AT_ONCE_SECONDS / max(1e-6, _MOVES_A_PIECE * self._move_seconds))

    def _begin_save(self, leaving: Leaving) -> StateMove | None:
        if not self._gauge.allows(leaving.tokens * self._backend.bytes_per_cell):
            return None
        try:
            return self._backend.kv_begin_save(leaving.slot)
        except MemoryError:
            return None
