"""The folder in which a worker keeps the tensors that it was sent, so that the same file isn't sent twice.

llama.cpp writes a file for each tensor of over 10 MiB, named by a hash of its bytes, and reads it when an engine names
that hash. It checks neither the file's size nor the folder's. So this module lists files that were written whole,
deletes all others when the worker starts or the disk runs full, and keeps the folder within its size. Several workers
may share the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
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
        """Delete what isn't whole. ``folder`` is made where there is none. Raises OSError."""
        self.folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
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
        for path, stat in files:
            if now - stat.st_mtime >= _WRITTEN_SECONDS:
                self._whole[path.name] = stat.st_size
        size = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
            if size <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            self._whole.pop(path.name, None)
            size -= stat.st_size
        if self._whole != before:
            self._write_list()

    def _delete_others(self) -> None:
        """Delete the files that aren't known to be whole."""
        for path, stat in self._files():
            if self._whole.get(path.name) != stat.st_size:
                path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # Another worker may have deleted it.
                    found.append((path, path.stat()))
        return found

    def _read_list(self) -> dict[str, int]:
        try:
            found = json.loads((self.folder / _LIST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_list(self) -> None:
        fresh = self.folder / f"{_LIST}.{os.getpid()}"
        fresh.write_text(json.dumps(self._whole), encoding="utf-8")
        fresh.replace(self.folder / _LIST)
