"""Memory that is made ready for checkpoints."""

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
    """How many calls it takes until nothing is left to touch."""
    calls = 0
    while memory.prepare(4096, free_bytes):
        calls += 1
    return calls


def test_memory_for_some_checkpoints_is_touched_piece_by_piece(memory: CheckpointMemory) -> None:
    assert memory.take() is None
    assert _prepare(memory, 1 << 30) == 8 * 4, "four pieces each"
    taken = [memory.take() for _ in range(9)]
    assert all(state is not None and state.size >= _SIZE for state in taken[:8])
    assert taken[8] is None
    assert _prepare(memory, 1 << 30) == 8 * 4, "it is made again"


def test_it_takes_no_more_than_checkpoints_may(memory: CheckpointMemory) -> None:
    _prepare(memory, 3 * _SIZE)
    assert [memory.take() is not None for _ in range(3)] == [True, True, False]


def test_without_free_memory_nothing_is_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available_memory", lambda: 0)
    memory = CheckpointMemory(_SIZE, MemoryGauge())
    assert not memory.prepare(4096, 1 << 30)
    assert memory.take() is None
