"""The cells of a layout that all slots share: which are free, and how many slots hold each. Pure accounting.

Cells are reference-counted, because a copied prefix shares the cells of its source.
"""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.engine.kv_cache.layout import Layout


class SharedCells:
    """``count`` cells, numbered from 0. The ones with the lowest numbers are taken first."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._references = [0] * count

    @property
    def free(self) -> int:
        """Cells that no slot holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """So many free cells. The caller has made sure that there are."""
        taken = [self._free.pop() for _ in range(count)]
        for cell in taken:
            self._references[cell] = 1
        return taken

    def share(self, cells: Iterable[int]) -> None:
        """One slot more holds these cells."""
        for cell in cells:
            self._references[cell] += 1

    def give_back(self, cells: Iterable[int]) -> None:
        """One slot less holds these cells."""
        for cell in cells:
            self._references[cell] -= 1
            if not self._references[cell]:
                self._free.append(cell)

    def grow(self, count: int) -> None:
        """There are ``count`` cells in all now; those that were there are taken first."""
        added = range(count - 1, len(self._references) - 1, -1)
        self._free[:0] = added
        self._references += [0] * len(added)


def cells_of(layout: Layout) -> SharedCells:
    """All cells of the layout, free. In a partitioned layout slots have cells of their own, and none are shared."""
    return SharedCells(layout.cells if layout.shared else 0)
