"""The folder in which a worker keeps the tensors that it was sent, so that the same file isn't sent twice.

llama.cpp writes a file for each tensor of over 10 MiB, named by a hash of its bytes, and reads it when an engine names
that hash. It checks neither the file's size nor the folder's. So this module lists files that were written whole,
deletes all others when the worker starts or the disk runs full, and keeps the folder within its size. Several workers
may share the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import time
from pathlib import Path

#: Seconds since the last write after which a file counts as whole: llama.cpp writes it in one go.
_WRITTEN_SECONDS = 5.0
#: Bytes of free disk below which a file may have been cut off while it was written.
_MIN_FREE = 1 << 30
_NAME = re.compile(r"[0-9a-f]{16}")
_LIST = "whole-files.json"


class TensorCache:
    """See the module."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Delete what isn't whole. ``folder`` is made where there is none. Raises OSError, also for a folder of another
        user, who could put other tensors there.
        """
        self.folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "the folder belongs to another user", str(folder))
        folder.chmod(0o700)  # Weights may be secret.
        self._whole = self._read_list()
        self._delete_others()
        self.tend()

    def tend(self) -> None:
        """List files that are whole by now, and delete the least recently used ones over the limit. Raises OSError."""
        if shutil.disk_usage(self.folder).free < _MIN_FREE:
            self._delete_others()
        before = dict(self._whole)
        now = time.time()
        files = self._files()
        for path, file in files:
            if now - file.st_mtime >= _WRITTEN_SECONDS and _is_own(file):
                self._whole[path.name] = file.st_size
        size = sum(file.st_size for _, file in files)
        for path, file in sorted(files, key=lambda each: max(each[1].st_atime, each[1].st_mtime)):
            if size <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            self._whole.pop(path.name, None)
            size -= file.st_size
        if self._whole != before:
            self._write_list()

    def _delete_others(self) -> None:
        """Delete the files that aren't known to be whole."""
        for path, file in self._files():
            if not _is_own(file) or self._whole.get(path.name) != file.st_size:
                path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # Another worker may have deleted it.
                    found.append((path, path.lstat()))
        return found

    def _read_list(self) -> dict[str, int]:
        try:
            found = json.loads((self.folder / _LIST).read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_list(self) -> None:
        fresh = self.folder / f"{_LIST}.{os.getpid()}"
        fresh.write_text(json.dumps(self._whole), encoding="utf-8")
        fresh.replace(self.folder / _LIST)


def _is_own(file: os.stat_result) -> bool:
    """Whether it is a file that this user has written: llama.cpp would follow a link, and wait for a FIFO."""
    return stat.S_ISREG(file.st_mode) and file.st_uid == os.geteuid()
