"""A replica whose answers are written by a test, byte by byte: it says what it does, and counts what it gets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tailrace.cluster_protocol.state import STATE_VERSION, ModelLoad, ReplicaPhase, ReplicaState, StateHeartbeat
from tailrace.models.reference import name_keys

_TIMEOUT = 60.0


@dataclass
class Received:
    """One request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    head: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for key, value in self.headers if key == name), None)


class Wire:
    """The connection of one request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self._connection.sendall(data)

    def reset(self) -> None:
        """End the connection with a reset."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._connection.close()

    def end(self) -> None:
        """End the connection, also while another thread reads from it."""
        self._connection.shutdown(socket.SHUT_RDWR)

    def wait_closed(self) -> None:
        """Return when the other end has closed the connection."""
        with contextlib.suppress(OSError):
            while self._connection.recv(65536):
                pass


Answer = Callable[[Received, Wire], None]


@dataclass
class ScriptedReplica:
    """See the module. ``answer`` is called for each request, on a thread of its connection."""

    answer: Answer
    model: str = "scripted"
    id: str = ""  #: at the ingress
    phase: ReplicaPhase = "ready"
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._silent = threading.Event()  #: the channel says nothing any more
        self._closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> ScriptedReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fall_silent(self) -> None:
        """Leave all connections open, and say nothing on the channel any more."""
        self._silent.set()

    def close(self) -> None:
        """End everything at once, as a killed process does."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.settimeout(_TIMEOUT)
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                line, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = line.split(" ")
                headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
                length = int(dict(headers).get("content-length", 0))
                while len(buffer) < length:
                    buffer += connection.recv(65536)
                request = Received(method, target, headers, buffer[:length], head)
                buffer = buffer[length:]
                if target == "/cluster/state":
                    self._report(connection)
                    return
                self.received.append(request)
                self.answer(request, Wire(connection))

    def _report(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        load = ModelLoad(name=self.model, keys=name_keys(self.model), slots=8, engines=1)
        message: ReplicaState | StateHeartbeat = ReplicaState(version=STATE_VERSION, phase=self.phase, models=[load])
        while not self._closed.is_set() and not self._silent.is_set():
            line = msgspec.json.encode(message) + b"\n"
            connection.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            message = StateHeartbeat()
            self._closed.wait(0.2)
        self._closed.wait()
