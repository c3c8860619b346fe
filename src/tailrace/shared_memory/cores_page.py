"""The page of shared memory in which the engines of one server show which of them compute now.

Each engine has a byte of its own, by its number as on the page of lives. It is 0 while the engine computes nothing, and
else says which cores it uses. Engines that use the same cores divide them. Nothing is locked: a look is one copy of the
page. The supervisor makes the page, and clears the byte of an engine that has ended.
"""

from __future__ import annotations

import mmap

from tailrace.shared_memory.lives_page import MAX_CHILDREN
from tailrace.shared_memory.memory_file import PAGE_BYTES

#: An engine that isn't bound to the cores of one NUMA node.
ANY_CORES = 255


def cores_of(node: int | None) -> int:
    """What an engine on this NUMA node writes: engines on the same node use the same cores."""
    return ANY_CORES if node is None else node % (ANY_CORES - 1) + 1


class CoresPage:
    """See the module."""

    def __init__(self, fd: int) -> None:
        """Map a page of ``memory_file.create_page``. ``fd`` may be closed then: the mapping stays."""
        self._map = mmap.mmap(fd, PAGE_BYTES)

    def show(self, number: int, cores: int) -> None:
        """Engine ``number`` computes on these cores from now on; 0: it doesn't compute. A negative one has no place."""
        if number >= 0:
            self._map[number] = cores

    def position(self, number: int, cores: int) -> tuple[int, int]:
        """The engine's place among the engines that compute on its cores, and how many these are, itself included."""
        shown = self._map[:MAX_CHILDREN]
        if cores == ANY_CORES:
            count = MAX_CHILDREN - shown.count(0)
            return (0, 1) if count < 2 else (number - shown.count(0, 0, number), count)
        count = shown.count(cores) + shown.count(ANY_CORES)
        if count < 2:
            return 0, 1
        return shown.count(cores, 0, number) + shown.count(ANY_CORES, 0, number), count

    @property
    def is_any_computing(self) -> bool:
        """Whether any engine computes now."""
        return self._map[:MAX_CHILDREN].count(0) < MAX_CHILDREN

    def close(self) -> None:
        """Unmap it."""
        self._map.close()
