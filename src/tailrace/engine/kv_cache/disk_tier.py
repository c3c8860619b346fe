"""The disk tier of kept states: files that one thread writes and reads, found by the tokens they were computed of.

It decides nothing about who runs. The loop asks ``find``, has a file read with ``fetch`` and gets what was in it
through its inbox; no step waits for a disk. Files hold people's conversations: only this user can read them.

A file is a magic word, the length of its head, the head (msgpack: the tokens, the state's size and CRC-32), the state.
One that isn't whole is treated as not there, and deleted.
"""

from __future__ import annotations

import hashlib
import os
import queue
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import structlog

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.prefix_store import common_prefix

_MAGIC = b"tailrace-kv-1\n\0\0"
_LENGTH = struct.Struct("<I")
#: States that begin alike for fewer tokens aren't looked for: reading the prompt is as quick.
LEAST = 64
#: States that may wait to be written; more are let go, because a disk that slow helps nobody.
_QUEUE = 8


class _Head(msgspec.Struct, frozen=True):
    tokens: bytes  #: int32 each
    size: int
    crc: int


class Fetched(msgspec.Struct, frozen=True):
    """A file has been read for the sequence ``id``; ``state`` is None where that wasn't possible."""

    id: int
    tokens: list[int]
    state: KVState | None


class DiskOptions(msgspec.Struct, frozen=True):
    """Where states go, and how many bytes of them."""

    folder: Path
    limit: int


class DiskTier:
    """States in ``folder``, of at most ``limit`` bytes in all; the least recently used go first."""

    def __init__(self, folder: Path, limit: int, deliver: Callable[[Fetched], None]) -> None:
        """``folder`` must be of this very model: a state of another would be taken for its own. What earlier runs have
        left there is found again. ``deliver`` is called from the tier's thread.
        """
        self._folder = folder
        self._limit = limit
        self._deliver = deliver
        self._log = structlog.get_logger()
        self._index: OrderedDict[str, tuple[list[int], int]] = OrderedDict()  #: name → tokens and bytes
        self._starts: dict[tuple[int, ...], set[str]] = {}  #: the first LEAST tokens → names
        self._bytes = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.kv"), key=lambda path: path.stat().st_mtime):
            if (head := _read_head(path)) is None:
                path.unlink(missing_ok=True)
            else:
                self._add(path.stem, np.frombuffer(head.tokens, np.int32).tolist(), path.stat().st_size)
        self._evict()
        self._thread = threading.Thread(target=self._work, name="kv-disk", daemon=True)
        self._thread.start()

    @property
    def used(self) -> int:
        """Bytes that the files take."""
        return self._bytes

    def find(self, tokens: list[int]) -> tuple[str, int] | None:
        """The file with the longest common beginning with ``tokens``, and how long it is."""
        names = self._starts.get(tuple(tokens[:LEAST]), ())
        found = [(name, common_prefix(self._index[name][0], tokens)) for name in names]
        return max(found, key=lambda pair: pair[1], default=None)

    def write(self, tokens: list[int], state: KVState) -> None:
        """Have the state written, unless it is too short to be looked for, or too large."""
        if len(tokens) < LEAST or state.size > self._limit or self._jobs.qsize() >= _QUEUE:
            return
        packed = np.array(tokens, np.int32).tobytes()
        name = hashlib.sha256(packed).hexdigest()[:32]
        if name in self._index:
            self._index.move_to_end(name)
            return
        self._add(name, tokens, state.size)
        self._evict()
        self._jobs.put(lambda: self._write(name, packed, state))

    def fetch(self, name: str, identity: int) -> None:
        """Have the file read; a ``Fetched`` for ``identity`` is delivered in any case."""
        tokens = self._index[name][0]
        self._index.move_to_end(name)
        self._jobs.put(lambda: self._deliver(Fetched(identity, tokens, self._read(name))))

    def close(self) -> None:
        """Finish what is being written."""
        self._jobs.put(None)
        self._thread.join()

    # In the loop's thread

    def _add(self, name: str, tokens: list[int], size: int) -> None:
        self._index[name] = tokens, size
        self._starts.setdefault(tuple(tokens[:LEAST]), set()).add(name)
        self._bytes += size

    def _evict(self) -> None:
        while self._bytes > self._limit:
            name, (tokens, size) = self._index.popitem(last=False)
            self._bytes -= size
            start = tuple(tokens[:LEAST])
            self._starts[start].discard(name)
            if not self._starts[start]:
                del self._starts[start]
            path = self._path(name)
            self._jobs.put(lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.kv"

    # In the tier's own thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

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
            # The state is only a shortcut: whoever looks for it computes it again.
            self._log.warning("a KV state can't be written", file=str(path), error=str(error))
            unfinished.unlink(missing_ok=True)

    def _read(self, name: str) -> KVState | None:
        path = self._path(name)
        head = _read_head(path)
        if head is None:
            return None
        try:
            os.utime(path)  # So that the next run knows which were used last.
            state = np.fromfile(path, np.uint8, offset=path.stat().st_size - head.size)
        except (OSError, ValueError) as error:
            self._log.warning("a KV state can't be read", file=str(path), error=str(error))
            return None
        if state.size != head.size or zlib.crc32(state.data) != head.crc:
            self._log.warning("a KV state's file is damaged", file=str(path))
            path.unlink(missing_ok=True)
            return None
        return state


def _read_head(path: Path) -> _Head | None:
    """The file's head; None when there is no whole file."""
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
