"""The last log lines of all processes, in memory that they share: for the operator's page.

The supervisor makes it. Each process writes into a ring of its own, which outlives the process: the last lines of an
engine that has died are there. A line is a store into memory, so writing never waits, and needs no reader. It shows no
line to anybody: ``server.dashboard`` decides who sees them.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections import deque

import msgspec

from tailrace.shared_memory.memory_file import create_memory

#: Processes that have a ring. Number 0 is the supervisor's, number n + 1 that of child n.
MAX_RINGS = 257
#: Bytes of a ring. Memory that no line has reached takes none.
_RING_BYTES = 64 * 1024
#: Each ring's two positions, which all lie in front: what is never written takes no memory, what is read does.
_POSITIONS_BYTES = 8192
_BYTES = _POSITIONS_BYTES + MAX_RINGS * _RING_BYTES
#: A line's time (Unix seconds), the number of its level, and the bytes of its process's name and of its text.
_HEAD = struct.Struct("<dBBH")
#: Bytes of a name, and of a text, that are kept.
_MAX_NAME = 200
_MAX_TEXT = 8000
#: Lines that a reader keeps.
_MAX_LINES = 1000

LEVELS = ("debug", "info", "warning", "error", "critical")


class LogLine(msgspec.Struct, frozen=True):
    """One line."""

    number: int  #: rises by one from line to line
    time: float  #: Unix time in seconds
    level: str  #: one of ``LEVELS``
    process: str  #: the name of its process
    text: str


def create_log_page() -> int:
    """A file descriptor of new rings, to be inherited. Raises OSError."""
    return create_memory(_BYTES)


class LogPage:
    """All rings. ``fd`` may be closed once they are mapped."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _BYTES)
        self._positions = memoryview(self._map)[:_POSITIONS_BYTES].cast("Q")

    def ring(self, number: int) -> LogRing:
        """The ring of this number, from 0 to ``MAX_RINGS`` - 1."""
        start = _POSITIONS_BYTES + number * _RING_BYTES
        memory = memoryview(self._map)[start : start + _RING_BYTES]
        return LogRing(self._positions[2 * number : 2 * number + 2], memory)

    def is_used(self, number: int) -> bool:
        """Whether anything was written into the ring."""
        return self._positions[2 * number] > 0


class LogRing:
    """One process's lines. Positions are bytes since the first line; aligned, they are stored in one piece."""

    _END, _OLDEST = 0, 1  #: behind the newest line, and where the oldest one begins

    def __init__(self, positions: memoryview, memory: memoryview) -> None:
        self._positions = positions
        self._memory = memory
        self._lock = threading.Lock()

    def write(self, time: float, level: str, process: str, text: str) -> None:
        """Add a line. Older ones make room."""
        name = process.encode("utf-8", "replace")[:_MAX_NAME]
        body = text.encode("utf-8", "replace")[:_MAX_TEXT]
        number = LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
        data = _HEAD.pack(time, number, len(name), len(body)) + name + body
        with self._lock:
            end, oldest = self._positions[self._END], self._positions[self._OLDEST]
            while end + len(data) - oldest > _RING_BYTES:
                oldest += self._length(oldest)
            # In this order: a reader, or the next process after a death in between, finds whole lines alone.
            self._positions[self._OLDEST] = oldest
            self._store(end, data)
            self._positions[self._END] = end + len(data)

    def read(self, since: int) -> tuple[list[tuple[float, str, str, str]], int]:
        """The lines from position ``since`` on that are still there, and the position behind them.

        A line has its time, level, process and text.
        """
        end = self._positions[self._END]
        at = max(since, self._positions[self._OLDEST])
        data = self._load(at, end - at)
        # Lines that the writer has overwritten meanwhile are dropped.
        kept = self._positions[self._OLDEST]
        found = []
        offset = 0
        while offset + _HEAD.size <= len(data):
            time, level, name, length = _HEAD.unpack_from(data, offset)
            begin = offset + _HEAD.size
            if at + offset >= kept:
                process, text = data[begin : begin + name], data[begin + name : begin + name + length]
                found.append((time, LEVELS[level], process.decode("utf-8", "replace"), text.decode("utf-8", "replace")))
            offset = begin + name + length
        return found, end

    def _length(self, at: int) -> int:
        _, _, name, text = _HEAD.unpack(self._load(at, _HEAD.size))
        return _HEAD.size + int(name) + int(text)

    def _store(self, at: int, data: bytes) -> None:
        begin = at % _RING_BYTES
        first = min(len(data), _RING_BYTES - begin)
        self._memory[begin : begin + first] = data[:first]
        self._memory[: len(data) - first] = data[first:]

    def _load(self, at: int, length: int) -> bytes:
        begin = at % _RING_BYTES
        first = min(length, _RING_BYTES - begin)
        return bytes(self._memory[begin : begin + first]) + bytes(self._memory[: length - first])


class LogReader:
    """Reads the rings of all processes, and numbers their lines. It does nothing between two calls."""

    def __init__(self, page: LogPage | None) -> None:
        """``page`` None: there are no lines."""
        self._page = page
        self._positions: dict[int, int] = {}
        self._rings: dict[int, LogRing] = {}
        self._lines: deque[LogLine] = deque(maxlen=_MAX_LINES)
        self.last = 0  #: the number of the last line

    def lines(self, after: int) -> list[LogLine]:
        """The lines with a higher number than ``after``, oldest first, at most the last thousand."""
        if self._page is not None:
            self._read(self._page)
        if after > self.last:
            after = 0  # The number is that of an earlier server.
        return [line for line in self._lines if line.number > after]

    def _read(self, page: LogPage) -> None:
        found: list[tuple[float, str, str, str]] = []
        for number in range(MAX_RINGS):
            if not page.is_used(number):
                continue
            ring = self._rings.get(number)
            if ring is None:
                ring = self._rings[number] = page.ring(number)
            lines, self._positions[number] = ring.read(self._positions.get(number, 0))
            found += lines
        for time, level, process, text in sorted(found):
            self.last += 1
            self._lines.append(LogLine(self.last, time, level, process, text))
