"""Returns memory to the system after large requests.

The C library keeps freed memory for itself, and Python frees cycles of objects only in a collection, which is rare here
(``child.settle_memory``). So a body of 24 MB would leave hundreds of megabytes behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

#: Bytes of a request's body after which memory is returned.
_LARGE = 1_000_000
#: Seconds between two trims, at least.
_PAUSE_SECONDS = 5.0

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
    """One trim for all that has been freed since the last one. It never takes long on the event loop."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._due = False  #: much has been freed since the last trim
        self._collection_due = False  #: the last trim was without a full collection
        self._next = 0.0  #: the earliest time of the next trim, by the event loop's clock

    def request_ended(self, size: int) -> None:
        """A request with a body of so many bytes has ended."""
        if size >= _LARGE:
            self._due = True

    def freed(self) -> None:
        """Many bytes that have waited for clients, or have come from them, are gone."""
        self._due = True

    def tick(self, now: float, *, idle: bool) -> None:
        """Trim if it is due. Called about once a second; ``idle``: no request is being served.

        A full collection takes time in proportion to the objects of all requests, so it waits until none runs. It also
        frees the objects that Python holds for reuse, which keep whole blocks of memory in use.
        """
        if now < self._next or not (self._due or (idle and self._collection_due)):
            return
        self._next = now + _PAUSE_SECONDS
        self._due, self._collection_due = False, not idle
        gc.collect(2 if idle else 1)
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
