"""Makes memory that processes share through an inherited file descriptor."""

from __future__ import annotations

import os
import tempfile

#: Bytes of a page of memory.
PAGE_BYTES = 4096


def create_page() -> int:
    """A file descriptor of one new page, which is all 0. Raises OSError."""
    return create_memory(PAGE_BYTES)


def create_memory(size: int) -> int:
    """A file descriptor of ``size`` new bytes, which are all 0. Raises OSError."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tailrace")
    else:
        fd, path = tempfile.mkstemp(prefix="tailrace-")
        os.unlink(path)  # noqa: PTH108  # a name beside its open descriptor
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
