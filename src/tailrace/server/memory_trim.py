"""Returns memory to the system after large requests.

The C library keeps freed memory for itself, and Python frees cycles of objects only in a collection, which is rare here
(``child.settle_memory``). So a body of 24 MB would leave hundreds of megabytes behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

#: Bytes of a request's body after which memory is returned, and the seconds until then.
_LARGE = 1_000_000
_DELAY_SECONDS = 1.0

#: glibc's names of options (malloc.h).
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
#: Blocks from this size on have pages of their own, which are returned when the block is freed.
_OWN_PAGES_BYTES = 1024 * 1024
_ARENAS = 2


def settle_allocator() -> None:
    """Have large blocks returned at once, and few arenas. Without effect where the C library isn't glibc."""
    library = ctypes.CDLL(None)
    if (mallopt := getattr(library, "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


class MemoryTrim:
    """One trim for all large requests that end within a second."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._pending: asyncio.TimerHandle | None = None

    def request_ended(self, size: int) -> None:
        """A request with a body of so many bytes has ended."""
        if size >= _LARGE and self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(_DELAY_SECONDS, self._run)

    def _run(self) -> None:
        self._pending = None
        gc.collect()
        if self._trim is not None:
            self._trim(0)
