"""The memory of a KV cache that has more addresses than cells: which pages were touched, and copies of its cells.

The first touch of a page takes the time in which the machine finds memory for it. A step must not wait for many pages
at once, so they are touched ahead of the cells in use. Without our kernels nothing is touched here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.layout import Layout
from tailrace.machine.free_memory import MemoryGauge

#: Bytes of cells behind the used ones that are touched ahead.
_AHEAD_BYTES = 64 << 20
#: Cells behind the used ones in which llama.cpp may put the next tokens: it fills holes between them later.
_AHEAD_CELLS = 1024
#: Bytes that are touched at once when the cache is made, at most. More are touched as cells are used.
_MAX_INITIAL_BYTES = 288 << 20

_owners = itertools.count(1)


class CellMemory:
    """The touched cells of one KV cache."""

    def __init__(self, bytes_per_cell: int) -> None:
        self._bytes_per_cell = bytes_per_cell
        self._owner = next(_owners)
        self._gauge = MemoryGauge()
        self._layout = Layout(0, 0)
        self._cells = 0  #: cells that have addresses
        self._touched = 0

    @contextmanager
    def made(self, layout: Layout, cells: int) -> Iterator[None]:
        """While it runs, a KV cache of this layout with ``cells`` cells is made, in place of the one before."""
        self._layout, self._cells, self._touched = layout, cells, 0
        partitions = max(1, layout.partitions)
        loader.record_cells(self._owner, cells // partitions, partitions)
        try:
            yield
        finally:
            loader.end_record()

    def forget(self) -> None:
        """The KV cache is about to be freed."""
        self._cells = 0
        loader.record_cells(self._owner, 0)

    @contextmanager
    def deferred(self, kept: bytes | None = None) -> Iterator[list[int]]:
        """While it runs, copies of cells are noted instead of made. The list then has the copies; it stays empty where
        there is no memory to note them. ``kept``: see ``loader.defer_copies``.
        """
        noted: list[int] = []
        begun = loader.defer_copies(self._owner, kept)
        try:
            yield noted
        finally:
            if begun:
                noted.append(loader.take_copies())

    def touch_initial(self) -> None:
        """Touch the layout's cells, if they are shared and aren't too many to be touched at once."""
        cells = self._layout.cells
        if self._layout.shared and cells * self._bytes_per_cell <= _MAX_INITIAL_BYTES:
            loader.populate_cells(self._owner, cells, _MAX_INITIAL_BYTES, begun=False)

    def touch_ahead(self, used_cells: int, max_bytes: int) -> bool:
        """See ``Backend.kv_touch_ahead``."""
        wanted = min(used_cells + _AHEAD_CELLS + _AHEAD_BYTES // self._bytes_per_cell, self._cells)
        if self._touched >= wanted or not self._gauge.allows(max_bytes):
            return False
        if loader.populate_cells(self._owner, wanted, max_bytes, begun=True) >= max_bytes:
            return True
        self._touched = wanted
        return False
