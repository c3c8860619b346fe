"""Signals as events of a loop that sleeps: no thread, no polling, and no work inside of a signal handler.

A socket may wake the loop as well. It is read and written by its owner.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType, TracebackType


class SignalQueue:
    """Receives ``numbers`` and SIGCHLD for the time of a ``with`` block, in the main thread."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = (*numbers, signal.SIGCHLD)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalQueue:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _ignore) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it came from the same function
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._read)
        os.close(self._write)

    def watch(self, fd: int, *, writable: bool = False) -> None:
        """Have data in the socket ``fd`` end a wait, too; with ``writable``, also space in it."""
        self._poll.register(fd, select.POLLIN | (select.POLLOUT if writable else 0))

    def ignore(self, fd: int) -> None:
        """Undo ``watch``."""
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)

    def wait(self, seconds: float | None) -> list[int]:
        """The signals that have come, after waiting for the first one, or for a watched socket, for up to ``seconds``
        (None: for ever).
        """
        for fd, events in self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000.0):
            if fd != self._read and events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                self.ignore(fd)  # It is broken, and would end every wait.
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []


def _ignore(number: int, frame: FrameType | None) -> None:
    """The number is written to the pipe by Python itself."""
