"""The file of one prefix state: its format, and how it is written and read.

A file is a magic word, the length of its head, the head (msgpack: the tokens, the state's size and CRC-32), the state.
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

_MAGIC = b"tailrace-kv-1\n\0\0"
_LENGTH = struct.Struct("<I")
#: Bytes of a file beside tokens and state, at most.
_OTHER_BYTES = 80
#: Bytes that are written between two looks at the clock.
_PIECE = 8 * 1024**2
#: The suffix of a file that is being written, behind the writer's process id.
PART = ".part"


class StateDamaged(Exception):
    """The file isn't whole, or its content isn't what was written."""


class StateHead(msgspec.Struct, frozen=True):
    """What the file says of its state."""

    tokens: bytes  #: int32 each
    size: int
    crc: int


def file_size(packed: bytes, state: KVState) -> int:
    """Bytes of the state's file, at most."""
    return len(packed) + state.size + _OTHER_BYTES


def write_state(path: Path, packed: bytes, state: KVState, deadline: float | None = None) -> None:
    """Write the state of these tokens (int32 each). Raises OSError; TimeoutError after ``deadline`` (monotonic)."""
    head = msgspec.msgpack.encode(StateHead(packed, state.size, zlib.crc32(state.data)))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(_MAGIC + _LENGTH.pack(len(head)) + head), deadline)
            _write_all(file.fileno(), memoryview(state.data), deadline)
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
    return head if rest == head.size and len(head.tokens) % 4 == 0 else None


def read_state(path: Path) -> KVState:
    """The state. Raises StateDamaged, OSError, and MemoryError where there is no memory for it."""
    head = read_head(path)
    if head is None:
        raise StateDamaged
    state = allocate_state(head.size)
    with path.open("rb") as file:
        file.seek(-head.size, os.SEEK_END)
        size = file.readinto(state.data)
    if size != head.size or zlib.crc32(state.data) != head.crc:
        raise StateDamaged
    return state
