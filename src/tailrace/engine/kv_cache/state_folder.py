"""The folder with the prefix states of one model, which several engines and servers may use at the same time.

The folder is the truth: a file that another process has deleted counts as missing, and one that it has written is found
at the next scan. Nothing is locked. Times of files are the order of their use.
"""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import structlog

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_file import PART, Carried, read_head, write_state

_SUFFIX = ".kv"
#: Seconds after which a state that was not used is deleted.
_MAX_AGE = 30 * 24 * 3600.0
_MODEL_FOLDER = re.compile(r"[0-9a-f]{20}")


class StoredState(NamedTuple):
    """A whole file."""

    name: str
    packed: bytes  #: its tokens
    size: int  #: bytes of the file
    checkpoints: tuple[int, ...] = ()  #: the lengths of those that it carries


class StateFolder:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """Make the folder, unless it is there. Raises OSError."""
        self._path = path
        self._log = structlog.get_logger()
        self._make()

    def _make(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(
        self, name: str, packed: bytes, state: KVState, deadline: float | None = None, carried: Carried = ()
    ) -> None:
        """Write the state of these tokens (``write_state``)."""
        try:
            write_state(self.path(name), packed, state, deadline, carried)
        except FileNotFoundError:
            # Another process has deleted the empty folder, or took the unfinished file for one of a dead process.
            self._make()
            write_state(self.path(name), packed, state, deadline, carried)

    def path(self, name: str) -> Path:
        """The file of this name."""
        return self._path / f"{name}{_SUFFIX}"

    def scan(self) -> list[StoredState]:
        """The whole files, least recently used first. What an interrupted process has left is deleted."""
        for path in self._path.glob(f"*{PART}"):
            if not _writer_lives(path):
                self.delete(path)
        found: list[StoredState] = []
        for _, size, path in self._files():
            try:
                head = read_head(path)
            except OSError:
                continue  # Another process has just deleted it, or it can't be read now.
            if head is None:
                self.delete(path)
            else:
                lengths = tuple(length for length, _ in head.checkpoints)
                found.append(StoredState(path.name.removesuffix(_SUFFIX), head.tokens, size, lengths))
        return found

    def trim(self, max_bytes: int) -> None:
        """Delete the least recently used files until all together, other engines' too, take at most ``max_bytes``."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= max_bytes:
                return
            self.delete(path)
            total -= size

    def touch(self, name: str, age: float = 0.0) -> None:
        """The file was used, ``age`` seconds ago. Raises OSError."""
        used = time.time() - age
        os.utime(self.path(name), (used, used))

    def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("a KV state's file can't be deleted", file=str(path), error=str(error))

    def delete_expired(self) -> None:
        """Delete the states of all models that were not used for 30 days, and folders that are empty then."""
        oldest = time.time() - _MAX_AGE
        for folder in self._path.parent.iterdir():
            if not _MODEL_FOLDER.fullmatch(folder.name) or not folder.is_dir():
                continue
            files = list(folder.iterdir())
            old = [path for path in files if _modified(path) < oldest]
            for path in old:
                self.delete(path)
            # A folder without files may be a loaded model's.
            if folder != self._path and old and len(old) == len(files):
                try:
                    folder.rmdir()
                except OSError:
                    continue  # Another process has just written into it.

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of use, bytes and path of each file, least recently used first."""
        found: list[tuple[float, int, Path]] = []
        for path in self._path.glob(f"*{_SUFFIX}"):
            try:
                facts = path.stat()
            except OSError:
                continue  # Another process has just deleted it.
            found.append((facts.st_mtime, facts.st_size, path))
        return sorted(found)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf  # Another process has just deleted or renamed it, so it uses the folder.


def _writer_lives(path: Path) -> bool:
    """Whether the process that writes the file may still run. A process of another container counts as dead: it writes
    the file once more then.
    """
    number = path.name.removesuffix(PART).rpartition(".")[2]
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
