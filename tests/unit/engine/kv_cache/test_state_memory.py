"""Memory of prefix states."""

from __future__ import annotations

import mmap
import random
from pathlib import Path

import numpy as np
import pytest

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_memory import allocate_state


@pytest.mark.parametrize("size", [0, 1, 999_999, 1_000_000, 5_000_001])
def test_a_state_has_its_size_and_can_be_written(size: int) -> None:
    state = allocate_state(size)
    state[:] = 7
    assert state.size == size
    assert int(state.sum(dtype=np.int64)) == 7 * size


def test_without_a_mapping_the_heap_has_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("too many mappings")

    monkeypatch.setattr(mmap, "mmap", fail)
    assert allocate_state(2_000_000).size == 2_000_000


def test_states_that_come_and_go_take_no_more_memory_than_they_have() -> None:
    """Sizes as of prompts of all lengths: the oldest states leave for each new one."""
    source = random.Random(5)
    states: list[KVState] = []
    before = _resident()
    peak = 0
    for number in range(300):
        state = allocate_state(source.randrange(1_000_000, 12_000_000))
        state[:] = 1
        states.append(state)
        while sum(one.size for one in states) > 100_000_000:
            del states[0]
        del state
        if number > 100:
            peak = max(peak, _resident())
    assert peak - before <= 1.05 * 100_000_000


def _resident() -> int:
    """Bytes of this process's anonymous memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel doesn't say how much memory there is")
