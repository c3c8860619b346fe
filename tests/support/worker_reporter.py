"""A worker's two ports without a device: its reports and claims, and the greeting of its RPC port."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import msgspec

from tailrace.worker.address import ListenAddress, free_address
from tailrace.worker.status_server import StatusServer
from tailrace.worker_protocol.status import PROTOCOL, STATUS_PORT_OFFSET, OfferedDevice, WorkerStatus

STATUS = WorkerStatus(llama_cpp="1.2.3", threads=2, devices=(OfferedDevice("CPU", "a CPU", 10, 20),), protocol=PROTOCOL)


class WorkerReporter:
    """A status server on loopback, in a thread, which reports ``status``. ``greeting`` is what its RPC port says."""

    def __init__(self) -> None:
        self.status = STATUS
        self.greeting = struct.pack("<Q28x", 28)
        self.paused = False
        self.released = 0  #: claims that have ended
        self._ended = False
        self.endpoint = str(free_address(ListenAddress("127.0.0.1", 0, is_loopback=True)))
        port = int(self.endpoint.partition(":")[2])
        self._rpc = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._greet, daemon=True).start()
        self._server = StatusServer("127.0.0.1", port + STATUS_PORT_OFFSET, self._release)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            if self.paused:
                time.sleep(0.01)
            else:
                self._server.beat(lambda: msgspec.structs.replace(self.status, holder=self._server.holder))

    def _greet(self) -> None:
        with contextlib.suppress(OSError):  # The listening socket is closed.
            while True:
                connection, _ = self._rpc.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(self.greeting)

    def _release(self) -> None:
        self.released += 1

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._server.close()
        self._rpc.shutdown(socket.SHUT_RDWR)
        self._rpc.close()
