"""Memory for prefix states in host memory.

Each large state has pages of its own, which go back to the system with it. In malloc's heap, states of many sizes that
come and go took a fifth more memory than they have bytes.
"""

from __future__ import annotations

import mmap

import numpy as np

from tailrace.engine.backends.base import KVState

#: Bytes from which a state has pages of its own.
_MIN_PAGES_BYTES = 1_000_000


def allocate_state(size: int, *, beside: bool = False) -> KVState:
    """An array of ``size`` bytes, whose content is arbitrary. Raises MemoryError.

    ``beside``: it is filled between steps. For a huge page the kernel may have to move other memory, which takes up to
    a tenth of a second, so it has small ones.
    """
    if size < _MIN_PAGES_BYTES:
        return np.empty(size, np.uint8)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        # The process has as many mappings as the kernel allows, or no memory: then this raises MemoryError.
        return np.empty(size, np.uint8)
    if hasattr(mmap, "MADV_HUGEPAGE") and not beside:
        # Writing a state takes half the time in huge pages.
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)
