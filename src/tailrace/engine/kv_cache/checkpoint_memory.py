"""Memory for checkpoints: touched while nothing runs, beside steps a little at a time, and used again.

The first touch of new memory takes up to twenty times as long as copying a checkpoint into it, and replies would wait
for that. So memory is touched ahead, and that of dropped checkpoints serves new ones.
"""

from __future__ import annotations

import time
import weakref

import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_memory import allocate_state
from tailrace.machine.free_memory import MemoryGauge

#: Checkpoints for which there is memory ahead: those of a long prompt. And their bytes, at most.
_COUNT = 8
#: The same beside steps: the last checkpoints of a prompt are close to each other.
_COUNT_BESIDE = 3
_MAX_BYTES = 256 << 20
#: A checkpoint may be a little larger than the estimate of its size.
_SPARE_BYTES = 4096


class CheckpointMemory:
    """Memory for checkpoints of about ``size`` bytes."""

    def __init__(self, size: int, gauge: MemoryGauge) -> None:
        self._size = size + _SPARE_BYTES
        self._gauge = gauge
        self._ready: list[KVState] = []
        self._begun: KVState | None = None
        self._touched = 0  #: bytes of ``_begun``

    @property
    def ready(self) -> int:
        """Checkpoints for which there is touched memory."""
        return len(self._ready)

    def take(self) -> KVState:
        """Memory for one checkpoint, whose content is arbitrary: touched, if any is ready. Once nothing refers to the
        array and its views, the memory is ready again. Raises MemoryError.
        """
        pages = self._ready.pop() if self._ready else allocate_state(self._size)
        state = np.frombuffer(pages.data, np.uint8)
        weakref.finalize(state, self._take_back, pages).atexit = False
        return state

    def is_coming(self, free_bytes: int) -> bool:
        """Whether ``prepare`` makes memory ready beside steps, where none is. ``free_bytes``: as in ``prepare``."""
        return not self._ready and (self._begun is not None or self._begin(free_bytes, _COUNT_BESIDE))

    def prepare(self, max_bytes: int, seconds: float, free_bytes: int, *, beside: bool = False) -> bool:
        """Touch ``max_bytes`` of new memory, and more until ``seconds`` have passed. Whether there is more to touch.

        ``free_bytes``: what checkpoints may still take, this memory included. ``beside``: sequences run.
        """
        end = time.monotonic() + seconds
        while self._begun is not None or self._begin(free_bytes, _COUNT_BESIDE if beside else _COUNT):
            self._touch(max_bytes)
            if time.monotonic() >= end:
                return True
        return False

    def _touch(self, max_bytes: int) -> None:
        assert self._begun is not None
        end = min(self._size, self._touched + max_bytes)
        self._begun[self._touched : end] = 0
        self._touched = end
        if end == self._size:
            self._ready.append(self._begun)
            self._begun = None

    def _begin(self, free_bytes: int, max_count: int) -> bool:
        count = len(self._ready) + 1
        if count > max_count or count * self._size > min(free_bytes, _MAX_BYTES) or not self._gauge.allows(self._size):
            return False
        try:
            self._begun = allocate_state(self._size, beside=True)
        except MemoryError:
            return False
        self._touched = 0
        return True

    def _take_back(self, pages: KVState) -> None:
        """Any thread may drop the last reference to a checkpoint."""
        if len(self._ready) < _COUNT and (len(self._ready) + 1) * self._size <= _MAX_BYTES:
            self._ready.append(pages)
