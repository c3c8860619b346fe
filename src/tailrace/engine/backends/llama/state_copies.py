"""A slot's state on its way out of the cache or into it, a few bytes at a time.

llama.cpp writes and reads a whole state in one call. In that call the state's list of cells, its recurrent part and the
cells of sliding windows are copied. The rows of all other cells are only noted (``CellMemory.deferred``), and copied
afterwards. Nothing else may change these cells meanwhile: llama.cpp never moves them. Where copies can't be noted, all
rows are copied in that call, into memory that was touched before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.llama.sequence_state import HEAD_BYTES
from tailrace.engine.backends.llama.transfers import DeviceTransfers
from tailrace.engine.kernels import loader

#: Bytes that are touched or copied at once: the first touch of a megabyte takes 2 ms in a virtual machine.
PIECE_BYTES = 1 << 20
#: Bytes of a cell's entry in a state: position, one sequence, and what models with positions of several numbers add.
_ENTRY_BYTES = range(12, 40, 4)


class StateCopies:
    """See ``StateMove``."""

    def __init__(self, copies: int | None, state: KVState, transfers: DeviceTransfers) -> None:
        """``copies``: from ``loader.take_copies``; None: all were made. They read or write ``state``."""
        self.state = state
        self._copies = copies
        self._transfers = transfers
        self.done = copies is None or loader.advance_copies(copies, 0, 0.0)
        if copies is not None:
            # At the process's end a worker may be gone, and llama.cpp would abort.
            weakref.finalize(self, loader.free_copies, copies).atexit = False

    def advance(self) -> None:
        """See ``StateMove``."""
        assert self._copies is not None
        transfers = self._transfers
        size = transfers.piece_bytes if transfers.has_device else PIECE_BYTES
        with transfers.counted(is_piece=True):
            self.done = loader.advance_copies(self._copies, size, transfers.piece_seconds)


class StateSave:
    """See ``StateMove``. Memory for what is copied at once is touched before: that takes longer than the copy."""

    def __init__(self, memory: KVState, touched: range, begin: Callable[[KVState], StateCopies]) -> None:
        """``begin`` writes the state into ``memory``, which may be larger. ``touched``: the bytes to touch before."""
        self._memory = memory
        self._touched = touched
        self._begin = begin
        self._copies: StateCopies | None = None

    @property
    def done(self) -> bool:
        """See ``StateMove``."""
        return self._copies is not None and self._copies.done

    @property
    def state(self) -> KVState | None:
        """See ``StateMove``."""
        return None if self._copies is None else self._copies.state

    def advance(self) -> None:
        """See ``StateMove``."""
        if self._copies is not None:
            self._copies.advance()
        elif self._touched:
            piece = self._touched[:PIECE_BYTES]
            self._memory[piece.start : piece.stop] = 0
            self._touched = self._touched[PIECE_BYTES:]
        else:
            self._copies = self._begin(self._memory)


def kept_rows(state: KVState, length: int) -> bytes | None:
    """For each cell of the state's first cache, in the state's order, whether its position is below ``length``.

    The state is of a context with one stream. None where its format is unknown.
    """
    rows = int(state[HEAD_BYTES + 4 : HEAD_BYTES + 8].view(np.uint32)[0]) if state.size >= HEAD_BYTES + 8 else 0
    begin = HEAD_BYTES + 8
    for entry in _ENTRY_BYTES:
        if not rows or begin + rows * entry > state.size:
            return None
        entries = state[begin : begin + rows * entry].reshape(rows, entry)
        positions = np.ascontiguousarray(entries[:, :4]).view(np.int32)[:, 0]
        if np.array_equal(np.sort(positions), np.arange(rows)):
            return (positions < length).astype(np.uint8).tobytes()
    return None
