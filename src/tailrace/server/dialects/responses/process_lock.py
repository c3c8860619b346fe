"""Tells whether another process still lives, from a number that it has left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


class Lease:
    """This process's lock on one byte of ``file``, at the random offset ``number``. The kernel takes it back when the
    process ends, however that happens; a process id would say less, since it may be another's by then.
    """

    def __init__(self, file: Path) -> None:
        """Raises OSError."""
        self.number = secrets.randbits(48)
        # Closing any descriptor of the file gives the lock back: there is one, for as long as the lease is held.
        self._file = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self.number)

    def held(self, number: int) -> bool:
        """Whether the process with the lease ``number`` lives."""
        if number == self.number:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # Which of them is the system's choice.
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return False

    def close(self) -> None:
        """Give it back."""
        os.close(self._file)
