"""A slot's state on its way out of the cache or into it, a few bytes at a time.

llama.cpp writes and reads a whole state in one call. In that call the state's list of cells, its recurrent part and the
cells of sliding windows are copied. The rows of all other cells are only noted (``CellMemory.deferred``), and copied
afterwards. Nothing else may change these cells meanwhile: llama.cpp never moves them. Where copies can't be noted, all
rows are copied in that call, into memory that was touched before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.llama.sequence_state import adapted_parts, streams_of
from tailrace.engine.backends.llama.transfers import DeviceTransfers
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.state_memory import allocate_state

#: Bytes that are touched or copied at once: the first touch of a megabyte takes 2 ms in a virtual machine.
PIECE_BYTES = 1 << 20


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


class StateLoad:
    """See ``StateMove``. The state is written anew first, because its number of streams isn't the layout's."""

    def __init__(self, parts: list[KVState], begin: Callable[[KVState], StateCopies | None]) -> None:
        """``parts`` of the adapted state, in order. ``begin`` begins to load it; None where that fails."""
        self._parts = parts
        self._begin = begin
        self._memory = allocate_state(sum(part.size for part in parts), beside=True)
        self._written = 0
        self._copies: StateCopies | None = None
        self.done = False
        self._failed = False

    @property
    def state(self) -> KVState | None:
        """See ``StateMove``."""
        return None if self._failed else self._memory

    def advance(self) -> None:
        """See ``StateMove``."""
        if self._copies is not None:
            self._copies.advance()
        elif self._parts:
            self._write(PIECE_BYTES)
            return
        else:
            self._copies = self._begin(self._memory)
            self._failed = self._copies is None
        self.done = self._copies is None or self._copies.done

    def _write(self, size: int) -> None:
        """Write the next bytes, ``size`` at most."""
        while self._parts and size:
            piece, rest = self._parts[0][:size], self._parts[0][size:]
            self._memory[self._written : self._written + piece.size] = piece
            self._written += piece.size
            size -= piece.size
            self._parts[:1] = [rest] if rest.size else []


def begin_load(
    state: KVState, streams: int, begin: Callable[[KVState], StateCopies | None], *, adapts: bool
) -> StateCopies | StateLoad | None:
    """Begin to load a state into a layout with so many streams by ``begin``. ``adapts``: a state of another number is
    adapted first, in pieces. None: it is loaded whole.
    """
    if streams_of(state) == streams:
        return begin(state)
    parts = adapted_parts(state, streams) if adapts else None
    return None if parts is None else StateLoad(parts, begin)
