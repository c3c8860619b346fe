"""Finds out which engine is connected to this worker, and ends its connection. llama.cpp accepts the connection and
doesn't tell whose it is.

The kernel lists this process's sockets. On systems without /proc the client stays unknown.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

from tailrace.device_figures.tcp_connection import Connection, find_connections, read_tcp

#: Seconds of silence after which the kernel asks whether the client's machine is still there, between two questions,
#: and the number of questions. Without them a client that lost its power would keep the worker for good.
_IDLE_SECONDS, _ASK_SECONDS, _ASKS = 10, 5, 3


class Client(NamedTuple):
    """The engine that is connected."""

    address: str
    sending_seconds: float | None  #: in which bytes to it were on their way; None: the system doesn't count


def find_client(port: int) -> Client | None:
    """The client that is connected to this process's ``port``; None: there is none."""
    for connection in find_connections():
        if connection.here[1] == port:
            _notice_silence(connection)
            reading = read_tcp(connection)
            host, client_port = connection.there
            return Client(f"{host}:{client_port}", None if reading is None else reading.sending_seconds)
    return None


def cut_client(port: int) -> str | None:
    """End the connection of that client, so that llama.cpp accepts the next one. Its address; None: there is none."""
    for connection in find_connections():
        if connection.here[1] == port:
            # The client, or another thread, may close it meanwhile.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.descriptor)) as found:
                found.shutdown(socket.SHUT_RDWR)
            host, client_port = connection.there
            return f"{host}:{client_port}"
    return None


def _notice_silence(connection: Connection) -> None:
    """Have the kernel end the connection of a client whose machine is gone."""
    # Another thread may close it meanwhile.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.descriptor)) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_SECONDS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASKS)
