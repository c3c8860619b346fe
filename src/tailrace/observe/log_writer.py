"""Writes log lines to standard error and never waits for its reader.

A terminal that is paused, a stopped journald or ``| less`` leaves a pipe full. A process that waited for it would
serve no request. So lines that don't fit stay in a bounded buffer, which the next line or ``flush`` writes. Beyond its
limit lines are dropped and counted. No thread is needed, whose CPU an engine would have to plan.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

#: Bytes of lines that wait at most: some thousand lines.
MAX_WAITING = 1_000_000
#: A pipe that is ready takes this number of bytes without waiting: POSIX's PIPE_BUF on Linux.
_ATOMIC = 4096
#: Seconds that a process waits at its end for the reader of its last lines.
_LAST_SECONDS = 0.5


class LogWriter:
    """A file for lines, as far as loggers need one."""

    def __init__(self, fd: int) -> None:
        """``fd``: where the lines go. It is shared with other processes: its flags stay as they are."""
        self._write = _non_blocking(fd)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self.dropped = 0  #: lines, since the start
        self._reported = 0  #: of them, those that a line has reported
        self.note: Callable[[int], str] = "{} log lines were dropped\n".format  #: the line that reports their number

    def write(self, text: str) -> int:
        """Write a line, or part of one; later, if the reader isn't ready."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._waiting_bytes + len(data) > MAX_WAITING:
                self._drain()
            if self._waiting_bytes + len(data) > MAX_WAITING:
                self.dropped += 1
                return len(text)
            self._report_dropped()
            self._append(data)
            self._drain()
        return len(text)

    def flush(self) -> None:
        """Write what waits, as far as that needs no waiting."""
        if self._waiting:
            with self._lock:
                self._drain()

    def flush_last(self) -> None:
        """The process ends: wait for a slow reader, but not long."""
        deadline = time.monotonic() + _LAST_SECONDS
        while self._waiting and time.monotonic() < deadline:
            self.flush()
            time.sleep(0.005)

    def _report_dropped(self) -> None:
        """Have a line in the place of those that were dropped."""
        if self.dropped > self._reported:
            missing, self._reported = self.dropped - self._reported, self.dropped
            self._append(self.note(missing).encode())

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _drain(self) -> None:
        while self._waiting:
            data = self._waiting.popleft()
            try:
                written = self._write(data)
            except OSError:
                # The reader has gone, or the disk is full. A server doesn't end for that.
                self.dropped += 1
                self._reported = self.dropped  # There is no place for a line that reports it.
                written = len(data)
            self._waiting_bytes -= written
            if written < len(data):
                self._waiting.appendleft(data[written:])
                return


def _non_blocking(fd: int) -> Callable[[bytes], int]:
    """A function that writes to the file without waiting, and returns the number of bytes that were written."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISSOCK(kind):
        peer = socket.socket(fileno=os.dup(fd))
        return lambda data: _tried(lambda: peer.send(data, socket.MSG_DONTWAIT))
    if not stat.S_ISREG(kind):
        try:
            # An open file of this process's own. The flag of the shared one would hold for every process that has it.
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return lambda data: _when_ready(fd, data)
        return lambda data: _tried(lambda: os.write(own, data))
    return lambda data: os.write(fd, data)


def _tried(write: Callable[[], int]) -> int:
    try:
        return write()
    except BlockingIOError:
        return 0


def _when_ready(fd: int, data: bytes) -> int:
    """Without /proc, or with another user's pipe: only as much as a ready pipe takes for certain."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    ready = poll.poll(0)
    if not ready:
        return 0
    return os.write(fd, data[:_ATOMIC])


_writer: LogWriter | None = None
_fd = 2  #: where the lines of this process go


def use(fd: int) -> None:
    """Have the lines go to another file than standard error. Called before the first one, and again for the same."""
    global _fd
    assert _writer is None or fd == _fd, "lines have been written"
    _fd = fd


def standard_error() -> LogWriter:
    """The writer of this process."""
    global _writer
    if _writer is None:
        _writer = LogWriter(_fd)
        atexit.register(_writer.flush_last)
    return _writer


def terminal() -> IO[str] | None:
    """The terminal that shows the lines, for other output; None where they go elsewhere."""
    return os.fdopen(os.dup(_fd), "w") if os.isatty(_fd) else None


def flush() -> None:
    """Write what waits. The processes' ticks call it, so that lines don't wait for others."""
    if _writer is not None:
        _writer.flush()


def dropped() -> int:
    """Lines of this process that were dropped so far."""
    return 0 if _writer is None else _writer.dropped
