"""Cells that slots share: each is free or held, and comes back with its last holder."""

from __future__ import annotations

from tailrace.engine.kv_cache.shared_cells import SharedCells


def test_a_cell_is_free_again_when_its_last_holder_has_gone() -> None:
    cells = SharedCells(4)
    held = cells.take(3)
    assert held == [0, 1, 2]
    cells.share(held[:2])
    cells.give_back(held)
    assert cells.free == 2
    cells.give_back(held[:2])
    assert cells.free == 4


def test_new_cells_are_taken_last() -> None:
    cells = SharedCells(2)
    first = cells.take(1)
    cells.grow(4)
    assert cells.free == 3
    assert [*first, *cells.take(3)] == [0, 1, 2, 3]
