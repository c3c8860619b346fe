"""Which prefix leaves first where space is short: the least recently used one. The one eviction policy of the engine.

Slots (``cache``), host memory (``prefix_store``) and files (``disk_tier``) each order their entries with an
``LruIndex``. A prefix is used when a sequence starts with it, and when it enters a tier. To change the policy, change
this module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class LruIndex(Generic[K]):
    """Keys with their sizes, iterated from the least to the most recently used."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[K, int] = OrderedDict()
        self.total = 0  #: the sum of all sizes

    def __iter__(self) -> Iterator[K]:
        return iter(self._sizes)

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, key: K, size: int) -> None:
        """Add a new key as the most recently used one."""
        self._sizes[key] = size
        self.total += size

    def touch(self, key: K) -> None:
        """The key was used. Raises KeyError for an unknown one."""
        self._sizes.move_to_end(key)

    def remove(self, key: K) -> None:
        """Forget the key. Raises KeyError for an unknown one."""
        self.total -= self._sizes.pop(key)

    def rename(self, names: dict[K, K]) -> None:
        """Give keys new names; each stays at its place in the order."""
        self._sizes = OrderedDict((names.get(key, key), size) for key, size in self._sizes.items())

    def victims(self, limit: int) -> list[K]:
        """The keys to evict, in order, so that the total isn't over ``limit``."""
        victims: list[K] = []
        total = self.total
        for key, size in self._sizes.items():
            if total <= limit:
                break
            victims.append(key)
            total -= size
        return victims
