"""The prefix cache of a backend as one thing: it outlives the loops that fill it."""

from __future__ import annotations

from typing import NamedTuple

from tailrace.engine.backends.base import Backend
from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_op_executor import CacheExecutor
from tailrace.engine.kv_cache.checkpoints import Checkpoints
from tailrace.engine.kv_cache.disk_tier import DiskOptions


class PrefixCache(NamedTuple):
    """The accounting, and the executor that makes the backend follow it."""

    accounting: KVCache
    executor: CacheExecutor

    @classmethod
    def empty(
        cls, backend: Backend, host_tokens: int, disk: DiskOptions | None, checkpoint_bytes: int = 0
    ) -> PrefixCache:
        """That of a backend with empty slots. ``host_tokens``: as in ``KVCache``. ``checkpoint_bytes``: memory for
        checkpoints, which only some models need.
        """
        size = backend.rollback.checkpoint_bytes
        checkpoints = None
        if 0 < size <= checkpoint_bytes:
            control = frozenset(token for token, text in enumerate(backend.vocabulary) if not text)
            checkpoints = Checkpoints(checkpoint_bytes, size, control)
        accounting = KVCache(
            backend.layout_policy,
            backend.layout,
            host_tokens,
            backend.rollback,
            checkpoints,
            state_tokens=-(-size // backend.bytes_per_cell),
            piece_tokens=backend.piece_tokens,
        )
        return cls(accounting, CacheExecutor(backend, accounting, disk, lambda fetched: None))

    def growth_bytes(self, bytes_per_cell: int) -> int:
        """How much memory the caches may still take."""
        checkpoints = self.accounting.checkpoints
        growth = self.accounting.growth_tokens * bytes_per_cell
        return growth + (checkpoints.free_bytes if checkpoints is not None else 0)
