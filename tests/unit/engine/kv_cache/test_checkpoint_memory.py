"""Memory that is made ready for checkpoints, and used again."""

from __future__ import annotations

import pytest

from tailrace.engine.kv_cache.checkpoint_memory import CheckpointMemory
from tailrace.machine import free_memory
from tailrace.machine.free_memory import MemoryGauge

_SIZE = 10_000


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> CheckpointMemory:
    monkeypatch.setattr(free_memory, "available_memory", lambda: 1 << 30)
    return CheckpointMemory(_SIZE, MemoryGauge())


def _prepare(memory: CheckpointMemory, free_bytes: int) -> int:
    """How many pieces it takes until nothing is left to touch."""
    pieces = 0
    while memory.prepare(4096, 0.0, free_bytes):
        pieces += 1
    return pieces


def test_memory_for_some_checkpoints_is_touched_piece_by_piece(memory: CheckpointMemory) -> None:
    assert not memory.ready
    assert _prepare(memory, 1 << 30) == 8 * 4, "four pieces each"
    taken = [memory.take() for _ in range(8)]
    assert all(state.size >= _SIZE for state in taken)
    assert not memory.ready
    assert _prepare(memory, 1 << 30) == 8 * 4, "it is made again"


def test_all_of_it_is_touched_in_the_time_that_there_is(memory: CheckpointMemory) -> None:
    assert not memory.prepare(4096, 60.0, 1 << 30)
    assert memory.ready == 8


def test_it_takes_no_more_than_checkpoints_may(memory: CheckpointMemory) -> None:
    _prepare(memory, 3 * _SIZE)
    assert memory.ready == 2, "a checkpoint may be a little larger than its estimate"


def test_without_free_memory_nothing_is_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available_memory", lambda: 0)
    memory = CheckpointMemory(_SIZE, MemoryGauge())
    assert not memory.prepare(4096, 0.0, 1 << 30)
    assert not memory.ready
    assert not memory.is_coming(1 << 30)


def test_memory_is_ready_again_once_no_view_of_it_is_left(memory: CheckpointMemory) -> None:
    _prepare(memory, 1 << 30)
    state = memory.take()
    state[:] = 1
    address = state.ctypes.data
    part = state[:100][10:]
    del state
    assert memory.ready == 7, "a view of a view is left"
    del part
    assert memory.ready == 8
    again = memory.take()
    assert again.ctypes.data == address
    assert (again == 1).all(), "it is touched memory"


def test_memory_is_coming_while_it_is_touched(memory: CheckpointMemory) -> None:
    assert memory.is_coming(1 << 30)
    while not memory.ready:
        assert memory.is_coming(1 << 30)
        memory.prepare(4096, 0.0, 1 << 30, beside=True)
    assert not memory.is_coming(1 << 30), "it is there"
