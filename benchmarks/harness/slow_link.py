"""A network between an engine and a worker: it adds latency, bounds the bytes a second, and can be cut.

It forwards a worker's two ports from two ports of its own, so the engine takes it for the worker.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

from tailrace.worker.address import ListenAddress, free_address
from tailrace.worker_protocol.status import STATUS_PORT_OFFSET

_CHUNK = 16_384


class SlowLink:
    """See the module. ``latency``: seconds in each direction. ``bandwidth``: bytes a second in each direction, of each
    connection; 0: unlimited.
    """

    def __init__(self, worker: str, *, latency: float = 0.0, bandwidth: float = 0.0) -> None:
        host, _, port = worker.rpartition(":")
        self._worker = host, int(port)
        self._latency, self._bandwidth = latency, bandwidth
        self._passes = threading.Event()
        self._passes.set()
        self._ended = False
        self._sockets: list[socket.socket] = []
        address = free_address(ListenAddress("127.0.0.1", 0, is_loopback=True))
        self.endpoint = str(address)
        for offset in (0, STATUS_PORT_OFFSET):
            server = socket.create_server((address.host, address.port + offset))
            self._sockets.append(server)
            self._start(self._accept, server, offset)

    def cut(self) -> None:
        """Let nothing through any more. Connections stay, as when a cable is pulled out."""
        self._passes.clear()

    def mend(self) -> None:
        """Let through again."""
        self._passes.set()

    def close(self) -> None:
        """End all connections."""
        self._ended = True
        self._passes.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self, server: socket.socket, offset: int) -> None:
        host, port = self._worker
        with contextlib.suppress(OSError):
            while True:
                here, _ = server.accept()
                self._passes.wait()
                try:
                    there = socket.create_connection((host, port + offset))
                except OSError:
                    here.close()
                    continue
                self._sockets += [here, there]
                for each in (here, there):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, target in ((here, there), (there, here)):
                    chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(64)
                    self._start(self._receive, source, chunks)
                    self._start(self._send, target, chunks)

    def _receive(self, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"."
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            chunks.put((time.monotonic() + self._latency, data))

    def _send(self, target: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        free_at = 0.0  #: when the link has sent everything before
        while True:
            due, data = chunks.get()
            if self._bandwidth:
                free_at = max(free_at, time.monotonic()) + len(data) / self._bandwidth
                due = max(due, free_at)
            time.sleep(max(0.0, due - time.monotonic()))
            self._passes.wait()
            try:
                if not data:
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
            except OSError:
                return
