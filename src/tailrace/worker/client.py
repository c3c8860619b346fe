"""Finds out which engine is connected to this worker. llama.cpp accepts the connection and doesn't tell whose it is.

The kernel lists this process's sockets. On systems without /proc the client stays unknown.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")
#: Seconds of silence after which the kernel asks whether the client's machine is still there, between two questions,
#: and the number of questions. Without them a client that lost its power would keep the worker for good.
_IDLE_SECONDS, _ASK_SECONDS, _ASKS = 10, 5, 3


def find_client(port: int) -> str | None:
    """The address of the client that is connected to this process's ``port``; None: there is none."""
    if not _DESCRIPTORS.is_dir():
        return None
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208  # only the numbers
        with contextlib.suppress(OSError):
            # Another thread may close it at any time, so this is a descriptor of our own.
            copy = os.dup(int(name))
            try:
                found = _client_of(copy, port)
            finally:
                os.close(copy)
            if found is not None:
                return found
    return None


def _client_of(descriptor: int, port: int) -> str | None:
    """The other end, where this is a connection to ``port``. Raises OSError for what isn't a connection."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family != socket.AF_INET or connection.getsockname()[1] != port:
            return None
        host, client_port = connection.getpeername()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASKS)
        return f"{host}:{client_port}"
