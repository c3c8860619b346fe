"""The file of one prefix state: its format, and how it is written and read.

A file is a magic word, the length of its head, the head (msgpack: the tokens, the state's size and CRC-32, the
checkpoints' lengths and sizes), the state, and its checkpoints.
It is written under another name and renamed, so a write that is cut short leaves no file of this name. Nothing is
synced: the page cache outlives the process. After a power failure a file may have wrong content, which its checksum
shows. Files hold users' texts: only this user can read them.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import zlib
from pathlib import Path

import msgspec

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.state_memory import allocate_state

_MAGIC = b"tailrace-kv-2\n\0\0"
_LENGTH = struct.Struct("<I")
#: Bytes of a file beside tokens, state and checkpoints, at most; and those of a checkpoint in the head.
_OTHER_BYTES = 80
_CHECKPOINT_HEAD_BYTES = 20
#: Bytes that are written between two looks at the clock.
_PIECE = 8 * 1024**2
#: The suffix of a file that is being written, behind the writer's process id.
PART = ".part"


#: Checkpoints that a state carries: the length of each, rising, with its copy.
Carried = tuple[tuple[int, KVState], ...]


class StateDamaged(Exception):
    """The file isn't whole, or its content isn't what was written."""


class StateHead(msgspec.Struct, frozen=True):
    """What the file says of its state."""

    tokens: bytes  #: int32 each
    size: int
    crc: int  #: of state and checkpoints
    checkpoints: list[tuple[int, int]] = []  #: the length and bytes of each

    @property
    def content_size(self) -> int:
        """Bytes behind the head."""
        return self.size + sum(size for _, size in self.checkpoints)


def file_size(packed: bytes, state: KVState, carried: Carried = ()) -> int:
    """Bytes of the state's file, at most."""
    checkpoints = sum(checkpoint.size + _CHECKPOINT_HEAD_BYTES for _, checkpoint in carried)
    return len(packed) + state.size + checkpoints + _OTHER_BYTES


def write_state(
    path: Path, packed: bytes, state: KVState, deadline: float | None = None, carried: Carried = ()
) -> None:
    """Write the state of these tokens (int32 each). Raises OSError; TimeoutError after ``deadline`` (monotonic)."""
    parts = [state, *(checkpoint for _, checkpoint in carried)]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part.data, crc)
    lengths = [(length, checkpoint.size) for length, checkpoint in carried]
    head = msgspec.msgpack.encode(StateHead(packed, state.size, crc, lengths))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(_MAGIC + _LENGTH.pack(len(head)) + head), deadline)
            for part in parts:
                _write_all(file.fileno(), memoryview(part.data), deadline)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def _write_all(fd: int, data: memoryview, deadline: float | None) -> None:
    while data:
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("there is no time left to write it")
        data = data[os.write(fd, data[:_PIECE]) :]


def read_head(path: Path) -> StateHead | None:
    """The file's head; None where the file isn't whole. Raises OSError."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            head = msgspec.msgpack.decode(file.read(length), type=StateHead)
            rest = os.fstat(file.fileno()).st_size - file.tell()
    except (struct.error, msgspec.DecodeError):
        return None
    return head if rest == head.content_size and len(head.tokens) % 4 == 0 else None


def read_state(path: Path) -> tuple[KVState, Carried]:
    """The state and its checkpoints. Raises StateDamaged, OSError, and MemoryError where there is no memory for it."""
    head = read_head(path)
    if head is None:
        raise StateDamaged
    parts: list[KVState] = []
    crc = 0
    with path.open("rb") as file:
        file.seek(-head.content_size, os.SEEK_END)
        for size in (head.size, *(size for _, size in head.checkpoints)):
            part = allocate_state(size)
            if file.readinto(part.data) != size:
                raise StateDamaged
            crc = zlib.crc32(part.data, crc)
            parts.append(part)
    if crc != head.crc:
        raise StateDamaged
    return parts[0], tuple((length, part) for (length, _), part in zip(head.checkpoints, parts[1:], strict=True))
