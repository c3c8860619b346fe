"""Puts into the log what children write to standard error past it: crashes, stacks, prints of native code.

A child logs to a file descriptor of its own. Its standard error is a pipe, which a thread here reads. So such text has
the log's form and the process's name, and can't pass for a line of the log. What a child wrote just before its death is
still in the pipe.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from typing import IO

import structlog

from tailrace.observe import safe_text

#: Native code and Python's stacks come in many small writes. Those within this time are one event.
_GATHER_SECONDS = 0.05
#: Bytes of an event that are read, and that are logged.
_MAX_BYTES = 4_000_000
_SHOWN = 32_000
_PIECE = 65_536


class StrayOutput:
    """See the module. The thread starts with the first child; it sleeps while nothing is written."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  #: ``finish`` may read at the same time

    def read(self, name: str, pipe: IO[bytes]) -> None:
        """Log what the process ``name`` writes into the pipe, until its end."""
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, name)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stray output", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Log what is left of children that have ended."""
        for key, _ in self._selector.select(0):
            self._take(key)

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            time.sleep(_GATHER_SECONDS)
            for key, _ in ready:
                self._take(key)

    def _take(self, key: selectors.SelectorKey) -> None:
        pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # registered as a file
        with self._lock:
            if pipe.closed:
                return
            data, ended = _read(key.fd)
            if ended:
                self._selector.unregister(pipe)
                pipe.close()
        text = safe_text.lines(data[:_SHOWN].decode("utf-8", "replace").strip("\n"))
        if text:
            more = {"left_out_bytes": len(data) - _SHOWN} if len(data) > _SHOWN else {}
            structlog.get_logger().warning("written to standard error", by=key.data, exception=text, **more)


def _read(fd: int) -> tuple[bytes, bool]:
    """What is in the pipe, as far as it is read at once, and whether all writers have closed it."""
    data = bytearray()
    while len(data) < _MAX_BYTES:
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return bytes(data), False
        except OSError:
            piece = b""
        if not piece:
            return bytes(data), True
        data += piece
    return bytes(data), False
