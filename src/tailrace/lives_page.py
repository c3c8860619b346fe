"""The page of shared memory in which the supervisor counts the lives of its children, for the HTTP process's metrics.

The supervisor writes and the HTTP process reads. The page outlives both children, so a restart resets no count. A count
is one store into memory; nothing is sent.
"""

from __future__ import annotations

import mmap


class LivesPage:
    """See the module. Children are numbered: the HTTP process is 0, engine n is n + 1, up to 255."""

    def __init__(self, fd: int) -> None:
        """Map a page of ``progress_page.create_page``. ``fd`` may be closed then: the mapping stays."""
        self._map = mmap.mmap(fd, 4096)
        self._numbers = memoryview(self._map).cast("d")

    def count_start(self, child: int) -> None:
        """The child was started."""
        self._numbers[2 * child] += 1

    def count_hang(self, child: int) -> None:
        """The child hung, and is replaced."""
        self._numbers[2 * child + 1] += 1

    def starts(self, child: int) -> int:
        """How often it was started."""
        return int(self._numbers[2 * child])

    def hangs(self, child: int) -> int:
        """How often it hung."""
        return int(self._numbers[2 * child + 1])

    def close(self) -> None:
        """Unmap it."""
        self._numbers.release()
        self._map.close()
