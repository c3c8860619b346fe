"""The page of shared memory in which the supervisor counts the lives of its children, for the HTTP process's metrics.

The supervisor writes and the HTTP process reads. The page outlives both children, so a restart resets no count. A count
is one store into memory; nothing is sent.
"""

from __future__ import annotations

import mmap

#: Children that have a place on the page.
MAX_CHILDREN = 256


class LivesPage:
    """See the module. Children are numbered: the HTTP process is 0, and the engines of the only model begin at 1.

    With several models, a model's engines have consecutive numbers, which it keeps (``ModelReport.first_child``).
    A negative number is a child without a place: nothing is counted.
    """

    def __init__(self, fd: int) -> None:
        """Map a page of ``memory_file.create_page``. ``fd`` may be closed then: the mapping stays."""
        self._map = mmap.mmap(fd, 16 * MAX_CHILDREN)
        self._numbers = memoryview(self._map).cast("d")

    def count_start(self, child: int) -> None:
        """The child was started."""
        if child >= 0:
            self._numbers[2 * child] += 1

    def count_hang(self, child: int) -> None:
        """The child hung, and is replaced."""
        if child >= 0:
            self._numbers[2 * child + 1] += 1

    def starts(self, child: int) -> int:
        """How often it was started."""
        return int(self._numbers[2 * child]) if child >= 0 else 0

    def hangs(self, child: int) -> int:
        """How often it hung."""
        return int(self._numbers[2 * child + 1]) if child >= 0 else 0

    def close(self) -> None:
        """Unmap it."""
        self._numbers.release()
        self._map.close()
