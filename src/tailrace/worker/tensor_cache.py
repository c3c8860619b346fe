"""The folder in which a worker keeps the tensors that it was sent, so that the same file isn't sent twice.

llama.cpp writes a file for each tensor of over 10 MiB, named by a hash of its bytes, and reads it when an engine names
that hash. It checks neither the file's size nor the folder's. So this module lists files that were written whole,
deletes all others when the worker starts, and keeps the folder within its size.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

#: Seconds since the last write after which a file counts as whole: llama.cpp writes it in one go.
_WRITTEN_SECONDS = 5.0
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
        whole = self._read_list()
        for path in self._files():
            if whole.get(path.name) != path.stat().st_size:
                path.unlink()
        self._whole = {path.name: path.stat().st_size for path in self._files()}
        self.tend()

    def tend(self) -> None:
        """List files that are whole by now, and delete the least recently used ones over the limit."""
        now = time.time()
        found = []
        for path in self._files():
            stat = path.stat()
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
            if now - stat.st_mtime >= _WRITTEN_SECONDS:
                self._whole[path.name] = stat.st_size
        size = sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if size <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            self._whole.pop(path.name, None)
            size -= each
        self._write_list()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]

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
