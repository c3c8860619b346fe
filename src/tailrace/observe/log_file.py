"""The log file of a server in the background: several processes append to it, and its size is bounded.

The processes have inherited the open file, so it can't be exchanged under them. Its content is copied to a second file
and then cut off. It is opened for appending: each line goes to the end, wherever that is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tailrace.folders import state_folder

#: Bytes of the file at which its content goes to the second one.
MAX_BYTES = 10_000_000
#: Log files of ended servers that are kept.
_KEPT = 10
_OLDER = ".1"
_ENDING = ".log"
_PIECE = 1 << 20


def logs_folder() -> Path:
    """Where the log files are. File names begin with the time of the server's start, so they sort by it."""
    return state_folder() / "logs"


def new_log(model: str, time: str, folder: Path | None = None) -> tuple[Path, int]:
    """A new log file for a server of ``model``, and its descriptor, open for appending; its owner alone may read it.

    ``time`` begins its name. Old files are deleted, but for a few. Raises OSError.
    """
    folder = folder or logs_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in log_files(folder)[:-_KEPT]:
        path.unlink(missing_ok=True)
        older(path).unlink(missing_ok=True)
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", model)[:80]
    number = 0
    while True:
        path = folder / f"{time}-{words}{f'-{number}' if number else ''}{_ENDING}"
        try:
            return path, os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            number += 1


def log_files(folder: Path | None = None) -> list[Path]:
    """The log files, the oldest first."""
    return sorted((folder or logs_folder()).glob(f"*{_ENDING}"))


def older(path: Path) -> Path:
    """The file with what stood in the log before."""
    return path.with_name(f"{path.name}{_OLDER}")


class LogFile:
    """The open log file ``fd`` at ``path``."""

    def __init__(self, path: Path, fd: int, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._fd = fd
        self._max_bytes = max_bytes

    def limit(self) -> None:
        """Move the content to the second file where it is too long. Called now and then.

        A line that another process writes between the end of the copy and the cut is lost. Where the disk is full, or
        the folder was deleted, the content is dropped: the log must not fill the disk.
        """
        if os.fstat(self._fd).st_size <= self._max_bytes:
            return
        try:
            self._copy(older(self.path))
        except OSError:
            older(self.path).unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)

    def _copy(self, target: Path) -> None:
        copied = 0
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            while data := os.pread(self._fd, _PIECE, copied):
                file.write(data)
                copied += len(data)
