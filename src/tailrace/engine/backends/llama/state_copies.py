"""A slot's state on its way out of the cache or into it, a few bytes at a time.

llama.cpp writes and reads a whole state in one call. In that call the state's list of cells, its recurrent part and the
cells of sliding windows are copied. The rows of all other cells are only noted (``CellMemory.deferred``), and copied
afterwards. Nothing else may change these cells meanwhile: llama.cpp never moves them.
"""

from __future__ import annotations

import weakref

import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.llama.sequence_state import HEAD_BYTES
from tailrace.engine.kernels import loader

#: Bytes that are copied at once: one huge page, whose first touch takes milliseconds in a virtual machine.
PIECE_BYTES = 2 << 20
#: Bytes of a cell's entry in a state: position, one sequence, and what models with positions of several numbers add.
_ENTRY_BYTES = range(12, 40, 4)


class StateCopies:
    """See ``StateMove``."""

    def __init__(self, copies: int, state: KVState) -> None:
        """``copies``: from ``loader.take_copies``. They read or write ``state``."""
        self.state: KVState | None = state
        self._copies = copies
        self.done = loader.advance_copies(copies, 0)
        weakref.finalize(self, loader.free_copies, copies)

    def advance(self) -> None:
        """See ``StateMove``."""
        self.done = loader.advance_copies(self._copies, PIECE_BYTES)


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
