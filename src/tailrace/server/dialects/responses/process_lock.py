"""A lock that shows whether the process that owns a number still lives."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


class ProcessLock:
    """This process's lock on one byte of ``file``, at the random offset ``number``. The kernel releases it when the
    process ends in any way. A process id wouldn't do: it may be reused.
    """

    def __init__(self, file: Path) -> None:
        """Raises OSError."""
        self.number = secrets.randbits(48)
        # Closing any descriptor of the file releases the lock, so there is exactly one.
        self._file = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self.number)

    def held(self, number: int) -> bool:
        """Whether the process with the lock ``number`` lives."""
        if number == self.number:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # Which of them is the system's choice.
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return False

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)
