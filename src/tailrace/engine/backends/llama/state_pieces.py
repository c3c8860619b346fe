"""A slot's state as a row of pieces, which are saved and restored one by one.

llama.cpp saves and restores whole sequences. So a spare sequence stands for a range of the slot's positions: it shares
their cells, and its own state is one piece. The format is a head (``_MAGIC``, positions of a piece, the number of
pieces and each one's bytes) and the pieces, each as llama.cpp writes it. Only a shared cache without windows or
recurrent parts can be cut like that.
"""

from __future__ import annotations

import struct
from typing import Protocol

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_memory import allocate_state

#: Not the beginning of a state of llama.cpp's.
_MAGIC = 0x74726B76
_HEAD = struct.Struct("<III")


class RangeMemory(Protocol):
    """A KV cache whose slots can be read and written by ranges of positions."""

    def range_bytes(self, slot: int, begin: int, end: int) -> int:
        """Bytes of the state of these positions."""
        ...

    def read_range(self, slot: int, begin: int, end: int, out: KVState) -> None:
        """Write the state of these positions, which has the size of ``out``. Raises BackendError."""
        ...

    def append_range(self, slot: int, state: KVState) -> bool:
        """Append positions to the slot. False where that fails: the slot is empty then."""
        ...

    def cut(self, slot: int, length: int) -> bool:
        """Reduce the slot to its first ``length`` positions."""
        ...


class PiecewiseSave:
    """See ``StateMove``."""

    def __init__(self, memory: RangeMemory, slot: int, length: int, piece_tokens: int) -> None:
        """``length``: of the slot. Raises MemoryError."""
        self._memory = memory
        self._slot = slot
        self._ranges = [(begin, min(begin + piece_tokens, length)) for begin in range(0, length, piece_tokens)]
        # All pieces but the last have the same number of positions.
        first = memory.range_bytes(slot, *self._ranges[0])
        sizes = [first] * (len(self._ranges) - 1) + [memory.range_bytes(slot, *self._ranges[-1])]
        head = _HEAD.pack(_MAGIC, piece_tokens, len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        self.state: KVState | None = allocate_state(len(head) + sum(sizes))
        self.state[: len(head)] = bytearray(head)
        self._outs = _cut(self.state, len(head), sizes)
        self._next = 0

    @property
    def done(self) -> bool:
        """See ``StateMove``."""
        return self._next == len(self._ranges)

    def advance(self) -> None:
        """See ``StateMove``."""
        self._memory.read_range(self._slot, *self._ranges[self._next], self._outs[self._next])
        self._next += 1


class PiecewiseLoad:
    """See ``StateMove``."""

    def __init__(self, memory: RangeMemory, slot: int, state: KVState, length: int | None = None) -> None:
        """``state`` is in pieces. ``length``: the positions to load; None: all."""
        self._memory = memory
        self._slot = slot
        self._length = length
        self.state: KVState | None = state
        piece_tokens, pieces = _pieces(state)
        self._pieces = pieces if length is None else pieces[: -(-length // piece_tokens)]
        self._next = 0

    @property
    def done(self) -> bool:
        """See ``StateMove``."""
        return self.state is None or self._next == len(self._pieces)

    def advance(self) -> None:
        """See ``StateMove``."""
        loaded = self._memory.append_range(self._slot, self._pieces[self._next])
        self._next += 1
        if loaded and self.done and self._length is not None:
            loaded = self._memory.cut(self._slot, self._length)
        if not loaded:
            self.state = None


def is_in_pieces(state: KVState) -> bool:
    """Whether a ``PiecewiseSave`` has written the state."""
    return state.size >= _HEAD.size and _HEAD.unpack_from(state.data)[0] == _MAGIC


def _pieces(state: KVState) -> tuple[int, list[KVState]]:
    """Positions of a piece, and the pieces. Files of states have checksums, so the head is right."""
    _, piece_tokens, count = _HEAD.unpack_from(state.data)
    sizes = struct.unpack_from(f"<{count}Q", state.data, _HEAD.size)
    return piece_tokens, _cut(state, _HEAD.size + 8 * count, sizes)


def _cut(state: KVState, offset: int, sizes: list[int] | tuple[int, ...]) -> list[KVState]:
    parts: list[KVState] = []
    for size in sizes:
        parts.append(state[offset : offset + size])
        offset += size
    return parts
