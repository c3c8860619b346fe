"""Reports the worker to every engine that listens at its status port, and gives it to one of those that claim it.

It never waits for a client. What it reads are claims of a bounded size; a client that sends anything else is dropped.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from tailrace.worker_protocol.status import (
    BEAT_SECONDS,
    CLAIM_SECONDS,
    MAX_CLAIM_BYTES,
    Claim,
    WorkerStatus,
    decode_claim,
    encode_status,
)

#: Connections at a time. An engine has one for each worker.
_MAX_LISTENERS = 64


class _Listener:
    """An engine's connection, and what it has sent of its next line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._rest = b""

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, line: bytes) -> bool:
        """Whether the client gets the line. One that has gone, or reads nothing, doesn't."""
        try:
            return self.connection.send(line) == len(line)
        except OSError:
            return False

    def receive(self) -> Claim | None:
        """Its last claim; None: no line is whole yet. Raises OSError and ValueError where it has to go."""
        received = self.connection.recv(MAX_CLAIM_BYTES)
        if not received:
            raise ConnectionResetError
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > MAX_CLAIM_BYTES:
            raise ValueError("the line is too long")
        return decode_claim(lines[-1]) if lines else None


class StatusServer:
    """See the module."""

    def __init__(self, host: str, port: int, released: Callable[[], None] = lambda: None) -> None:
        """Listen. ``released`` is called when the holder's claim has ended. Raises OSError."""
        self._socket = socket.create_server((host, port), backlog=16)
        self._socket.setblocking(False)
        self._listeners: list[_Listener] = []
        self._released = released
        self._holder: _Listener | None = None
        self._claimed_at = 0.0
        self.holder: str | None = None  #: the engine that has claimed the worker

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._socket.getsockname()[1])

    def beat(self, report: Callable[[], WorkerStatus]) -> None:
        """Report once to all, then receive claims and welcome new connections until the next report is due."""
        due = time.monotonic() + BEAT_SECONDS
        if self._holder is not None and time.monotonic() - self._claimed_at >= CLAIM_SECONDS:
            self._drop(self._holder)
        line = encode_status(report())
        for each in list(self._listeners):
            if not each.send(line):
                self._drop(each)
        while (left := due - time.monotonic()) > 0:
            readable, _, _ = select.select(
                [self._socket.fileno(), *(each.fileno() for each in self._listeners)], [], [], left
            )
            for listener in [each for each in self._listeners if each.fileno() in readable]:
                self._receive(listener, report)
            if self._socket.fileno() in readable:
                self._welcome(report)

    def close(self) -> None:
        """Close all connections."""
        for each in (self._socket, *(listener.connection for listener in self._listeners)):
            each.close()

    def _welcome(self, report: Callable[[], WorkerStatus]) -> None:
        with contextlib.suppress(OSError):  # The client has gone meanwhile.
            connection, _ = self._socket.accept()
            listener = _Listener(connection)
            if not listener.send(encode_status(report())):
                connection.close()
                return
            if len(self._listeners) >= _MAX_LISTENERS:
                # Clients that keep connections must not keep engines out.
                self._drop(next(each for each in self._listeners if each is not self._holder))
            self._listeners.append(listener)

    def _receive(self, listener: _Listener, report: Callable[[], WorkerStatus]) -> None:
        try:
            claim = listener.receive()
        except (OSError, ValueError):
            self._drop(listener)
            return
        if claim is None:
            return
        if self._holder is listener:
            self._claimed_at = time.monotonic()
            return
        # A client that connects without a claim may be there: llama.cpp serves it first.
        if self._holder is None and report().client is None:
            self._holder, self._claimed_at = listener, time.monotonic()
            self.holder = "".join(each for each in claim.engine if each.isprintable())
        if not listener.send(encode_status(report())):
            self._drop(listener)

    def _drop(self, listener: _Listener) -> None:
        listener.connection.close()
        self._listeners.remove(listener)
        if listener is self._holder:
            self._holder = self.holder = None
            self._released()
