"""A relay between an engine and a worker that sees each request of llama.cpp's RPC protocol."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from tailrace.worker.address import ListenAddress, free_address
from tailrace.worker_protocol.status import STATUS_PORT_OFFSET

#: ``enum rpc_cmd`` of llama.cpp's ggml-rpc.cpp.
GRAPH_COMPUTE = 10


class RpcRelay:
    """Listens on loopback for one engine. ``before`` is called with each request's number and size before the worker
    gets the request: what it waits for, the worker waits for, too, and an OSError ends the connection.
    ``with_status``: the next port is the worker's status port, as a server wants it.
    """

    def __init__(
        self,
        worker: str,
        before: Callable[[int, int], None] = lambda command, size: None,
        *,
        with_status: bool = False,
    ) -> None:
        host, _, port = worker.rpartition(":")
        self._worker = (host, int(port))
        self.before = before
        address = free_address(ListenAddress("127.0.0.1", 0, is_loopback=True))
        self.endpoint = str(address)
        self._connections: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        for offset in (0, STATUS_PORT_OFFSET) if with_status else (0,):
            self._servers.append(socket.create_server((address.host, address.port + offset)))
            threading.Thread(target=self._accept, args=(self._servers[-1], offset), daemon=True).start()

    def _accept(self, server: socket.socket, offset: int) -> None:
        host, port = self._worker
        while True:
            try:
                engine, _ = server.accept()
            except OSError:
                return
            engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            worker = socket.create_connection((host, port + offset))
            worker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections += engine, worker
            forward = _copy if offset else self._requests
            threading.Thread(target=forward, args=(engine, worker), daemon=True).start()
            threading.Thread(target=_copy, args=(worker, engine), daemon=True).start()

    def _requests(self, engine: socket.socket, worker: socket.socket) -> None:
        # The engine and the worker end in any order.
        with contextlib.suppress(OSError), engine.makefile("rb") as requests:
            while head := requests.read(9):
                command, size = struct.unpack("<BQ", head)
                self.before(command, size)
                worker.sendall(head + requests.read(size))
        # Also where the engine's end was a reset: the worker would wait for it otherwise.
        _end(worker)
        _end(engine)

    def close(self) -> None:
        """Accept no further engine, and close the connections of those that were here."""
        for server in self._servers:
            _end(server)
            server.close()
        for each in self._connections:
            _end(each)
            each.close()


def _end(connection: socket.socket) -> None:
    """End the connection, also for a thread that waits in it: closing alone would leave it open until that returns."""
    with contextlib.suppress(OSError):  # The other side may have ended it before.
        connection.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            to.sendall(data)
    _end(to)
