"""The prefix cache's disk tier: states in files that one thread writes and reads, found by their tokens.

It doesn't decide which sequence runs. The loop calls ``find``, has a file read with ``fetch``, and gets its content
through the inbox; no step waits for a disk. Files hold people's conversations: only this user can read them.

A file is a magic word, the length of its head, the head (msgpack: the tokens, the state's size and CRC-32), the state.
A file that isn't whole counts as missing and is deleted.
"""

from __future__ import annotations

import hashlib
import os
import queue
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import structlog

from tailrace.engine.backends.base import KVState
from tailrace.engine.helper_thread import HelperThread
from tailrace.engine.kv_cache.eviction import LruIndex
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.kv_cache.state_memory import allocate_state

_MAGIC = b"tailrace-kv-1\n\0\0"
_LENGTH = struct.Struct("<I")
#: Shorter common prefixes aren't looked for: computing them is as fast as reading a file.
MIN_PREFIX = 64
#: States that may wait to be written. More are dropped: they would take memory and the disk can't keep up.
_MAX_QUEUED = 8


class _Head(msgspec.Struct, frozen=True):
    tokens: bytes  #: int32 each
    size: int
    crc: int


class Fetched(msgspec.Struct, frozen=True):
    """A file has been read for the sequence ``id``; ``state`` is None where it couldn't be."""

    id: int
    tokens: list[int]
    state: KVState | None


class DiskOptions(msgspec.Struct, frozen=True):
    """The folder for states, and how many bytes they may take."""

    folder: Path
    max_bytes: int


class DiskTier:
    """States in ``folder``, of at most ``max_bytes`` in all, least recently used out first."""

    def __init__(self, folder: Path, max_bytes: int, deliver: Callable[[Fetched], None]) -> None:
        """``folder`` must be of this very model: a state of another one would be used as this model's. Files of earlier
        runs are found again. ``deliver`` is called from the tier's thread.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._deliver = deliver
        self._log = structlog.get_logger()
        self._tokens: dict[str, list[int]] = {}  #: by file name
        self._lru: LruIndex[str] = LruIndex()  #: file names, with the bytes of each
        self._by_start: dict[tuple[int, ...], set[str]] = {}  #: the first MIN_PREFIX tokens → file names
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.kv"), key=lambda path: path.stat().st_mtime):
            if (head := _read_head(path)) is None:
                self._delete(path)
            else:
                self._add(path.stem, np.frombuffer(head.tokens, np.int32).tolist(), path.stat().st_size)
        self._evict()
        self._thread = HelperThread(self._work, name="kv-disk")
        self._thread.start()

    @property
    def used_bytes(self) -> int:
        """Bytes that the files take."""
        return self._lru.total

    def find(self, tokens: list[int]) -> tuple[str, int] | None:
        """The file with the longest common prefix with ``tokens``, and the length of that prefix."""
        names = self._by_start.get(tuple(tokens[:MIN_PREFIX]), ())
        found = [(name, common_prefix(self._tokens[name], tokens)) for name in names]
        return max(found, key=lambda pair: pair[1], default=None)

    def write(self, tokens: list[int], state: KVState) -> None:
        """Queue the state to be written, unless it is too short to be looked for, too large, or the disk is behind."""
        if len(tokens) < MIN_PREFIX or state.size > self._max_bytes or self._jobs.qsize() >= _MAX_QUEUED:
            return
        packed = np.array(tokens, np.int32).tobytes()
        name = hashlib.sha256(packed).hexdigest()[:32]
        if name in self._tokens:
            self._lru.touch(name)
            return
        self._add(name, tokens, state.size)
        self._evict()
        self._jobs.put(partial(self._write, name, packed, state))

    def fetch(self, name: str, identity: int) -> None:
        """Have the file read. A ``Fetched`` for ``identity`` is delivered, whatever happens."""
        tokens = self._tokens[name]
        self._lru.touch(name)
        self._jobs.put(partial(self._fetch, name, identity, tokens))

    def close(self) -> None:
        """Finish the queued work and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    # In the loop's thread

    def _add(self, name: str, tokens: list[int], size: int) -> None:
        self._tokens[name] = tokens
        self._lru.add(name, size)
        self._by_start.setdefault(tuple(tokens[:MIN_PREFIX]), set()).add(name)

    def _evict(self) -> None:
        for name in self._lru.victims(self._max_bytes):
            self._lru.remove(name)
            start = tuple(self._tokens.pop(name)[:MIN_PREFIX])
            self._by_start[start].discard(name)
            if not self._by_start[start]:
                del self._by_start[start]
            self._jobs.put(partial(self._delete, self._path(name)))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.kv"

    # In the tier's own thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                # A failure of one file must not keep other sequences waiting for their files.
                self._log.exception("work on a prefix file has failed")

    def _fetch(self, name: str, identity: int, tokens: list[int]) -> None:
        state: KVState | None = None
        try:
            state = self._read(name)
        finally:
            self._deliver(Fetched(identity, tokens, state))

    def _write(self, name: str, packed: bytes, state: KVState) -> None:
        head = msgspec.msgpack.encode(_Head(packed, state.size, zlib.crc32(state.data)))
        path = self._path(name)
        unfinished = path.with_suffix(".part")
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(_MAGIC + _LENGTH.pack(len(head)) + head)
                file.write(state.data)
            os.replace(unfinished, path)
        except OSError as error:
            # The state is a shortcut only: a sequence that looks for it computes its prompt.
            self._log.warning("a KV state can't be written", file=str(path), error=str(error))
            self._delete(unfinished)

    def _read(self, name: str) -> KVState | None:
        path = self._path(name)
        head = _read_head(path)
        if head is None:
            return None
        try:
            os.utime(path)  # The next run takes the order of use from these times.
            state = allocate_state(head.size)
            with open(path, "rb") as file:
                file.seek(path.stat().st_size - head.size)
                size = file.readinto(state.data)
        except (OSError, ValueError) as error:
            self._log.warning("a KV state can't be read", file=str(path), error=str(error))
            return None
        if size != head.size or zlib.crc32(state.data) != head.crc:
            self._log.warning("a KV state's file is damaged", file=str(path))
            self._delete(path)
            return None
        return state

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("a KV state's file can't be deleted", file=str(path), error=str(error))


def _read_head(path: Path) -> _Head | None:
    """The file's head; None where the file isn't whole."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            head = msgspec.msgpack.decode(file.read(length), type=_Head)
            rest = path.stat().st_size - file.tell()
    except (OSError, struct.error, msgspec.DecodeError):
        return None
    return head if rest == head.size else None
