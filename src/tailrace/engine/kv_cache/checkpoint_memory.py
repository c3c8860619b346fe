"""Memory for the next checkpoints, touched while nothing runs, and beside steps a little at a time.

The first touch of new memory takes up to twenty times as long as copying a checkpoint into it, and a prompt would wait
for that at each of its checkpoints.
"""

from __future__ import annotations

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_memory import allocate_state
from tailrace.machine.free_memory import MemoryGauge

#: Checkpoints for which there is memory ahead: those of a long prompt. And their bytes, at most.
_COUNT = 8
#: The same beside steps.
_COUNT_BESIDE = 2
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

    def take(self) -> KVState | None:
        """Memory for one checkpoint, whose content is arbitrary. None where none is ready."""
        return self._ready.pop() if self._ready else None

    def prepare(self, max_bytes: int, free_bytes: int, *, beside: bool = False) -> bool:
        """Touch ``max_bytes`` of new memory. Whether there is more to touch.

        ``free_bytes``: what checkpoints may still take, this memory included. ``beside``: sequences run.
        """
        if self._begun is None and not self._begin(free_bytes, _COUNT_BESIDE if beside else _COUNT):
            return False
        assert self._begun is not None
        end = min(self._size, self._touched + max_bytes)
        self._begun[self._touched : end] = 0
        self._touched = end
        if end == self._size:
            self._ready.append(self._begun)
            self._begun = None
        return True

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
