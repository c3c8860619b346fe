"""Reports the worker to every engine that listens at its status port. It reads nothing and never waits for a client."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from tailrace.worker_status import BEAT_SECONDS, WorkerStatus, encode_status

#: Connections at a time. An engine has one for each worker.
_MAX_LISTENERS = 64


class StatusServer:
    """See the module."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        self._socket = socket.create_server((host, port), backlog=16)
        self._socket.setblocking(False)
        self._listeners: list[socket.socket] = []

    def beat(self, report: Callable[[], WorkerStatus]) -> None:
        """Report once to all, then welcome new connections until the next report is due."""
        due = time.monotonic() + BEAT_SECONDS
        line = encode_status(report())
        self._listeners = [each for each in self._listeners if _send(each, line)]
        while (left := due - time.monotonic()) > 0:
            readable, _, _ = select.select([self._socket], [], [], left)
            if readable:
                self._welcome(encode_status(report()))

    def _welcome(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # The client has gone meanwhile.
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            if len(self._listeners) >= _MAX_LISTENERS or not _send(connection, line):
                connection.close()
            else:
                self._listeners.append(connection)


def _send(connection: socket.socket, line: bytes) -> bool:
    """Whether the client gets the line. One that has closed, or reads nothing, is dropped."""
    try:
        sent = connection.send(line)
    except OSError:
        sent = 0
    if sent < len(line):
        connection.close()
    return sent == len(line)
