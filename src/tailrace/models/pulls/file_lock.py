"""A lock on a file between processes. It ends with its process, however that dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: Seconds between looks at a lock that another process has.
_LOOK_SECONDS = 0.2
#: Other users of a shared cache have to be able to take the lock, as huggingface_hub has it.
_MODE = 0o664


@contextlib.contextmanager
def locked(path: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. ``while_waiting`` is called a few times a second while another process has it. Raises OSError.

    It is ``flock``'s on a file that stays, so it excludes huggingface_hub's own downloads of the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(path, while_waiting)
    try:
        yield
    finally:
        os.close(descriptor)


def _take(path: Path, while_waiting: Callable[[], None]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had it may have deleted the file: the lock would be on one that no other process opens.
            if _is_same(descriptor, path):
                return descriptor
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise
            while_waiting()
            time.sleep(_LOOK_SECONDS)
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
