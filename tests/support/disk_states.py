"""A disk tier with random states."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np

from tailrace.engine.kv_cache.disk_tier import DiskOptions, DiskTier, Fetched, Savable
from tailrace.engine.kv_cache.rollback import ANY_LENGTH, Rollback


class Tier:
    """A tier and the states that it delivers."""

    def __init__(self, folder: Path, limit: int = 10_000, rollback: Rollback = ANY_LENGTH) -> None:
        self.delivered: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        self.tier = DiskTier(DiskOptions(folder, limit, rollback), self.delivered.put)

    def fetch(self, tokens: list[int]) -> Fetched:
        found = self.tier.find(tokens)
        assert found is not None
        self.tier.fetch(found, 7)
        return self.delivered.get(timeout=10)


def random_state(seed: int, size: int = 3000) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def tokens_from(start: int, length: int = 100) -> list[int]:
    return list(range(start, start + length))


def savable(start: int, length: int = 100, size: int = 3000) -> Savable:
    return Savable(tokens_from(start, length), size, lambda: random_state(start, size))
