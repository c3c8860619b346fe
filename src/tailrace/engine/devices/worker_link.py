"""The connection to a worker's status port. It asks for nothing: the worker reports by itself."""

from __future__ import annotations

import socket

import msgspec

from tailrace.worker_status import (
    MAX_STATUS_BYTES,
    SILENCE_SECONDS,
    STATUS_PORT_OFFSET,
    WorkerStatus,
    decode_status,
)

#: Seconds in which a connection has to be made.
_CONNECT_SECONDS = 3.0


class WorkerUnavailableError(Exception):
    """A worker that can't be used now; the message says why."""


class WorkerLink:
    """See the module. ``status`` is the last report."""

    def __init__(self, endpoint: str) -> None:
        """Connect, and receive the first report. Raises WorkerUnavailableError."""
        self.endpoint = endpoint
        host, _, port = endpoint.rpartition(":")
        status_port = int(port) + STATUS_PORT_OFFSET
        self._rest = b""
        try:
            self._socket = socket.create_connection((host, status_port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise WorkerUnavailableError(
                f"no worker answers at {endpoint} (its status port {status_port}: {error.strerror or error}); "
                f"start one there: tailrace worker --listen {endpoint}"
            ) from error
        self._socket.settimeout(SILENCE_SECONDS)
        try:
            self.status = self.next_status()
        except WorkerUnavailableError:
            self.close()
            raise

    def next_status(self) -> WorkerStatus:
        """The next report, for which it waits. Raises WorkerUnavailableError where none comes."""
        try:
            while b"\n" not in self._rest:
                received = self._socket.recv(MAX_STATUS_BYTES)
                if not received:
                    raise WorkerUnavailableError(f"the worker at {self.endpoint} has ended")
                self._rest += received
                if len(self._rest) > MAX_STATUS_BYTES:
                    raise WorkerUnavailableError(f"what answers at {self.endpoint} is no tailrace worker")
        except TimeoutError:
            raise WorkerUnavailableError(
                f"the worker at {self.endpoint} is silent for {SILENCE_SECONDS:g} s: it hangs, or is cut off"
            ) from None
        except OSError as error:
            raise WorkerUnavailableError(f"the worker at {self.endpoint} is gone: {error.strerror or error}") from error
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            self.status = decode_status(line)
        except msgspec.DecodeError as error:
            raise WorkerUnavailableError(f"what answers at {self.endpoint} is no tailrace worker: {error}") from error
        return self.status

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
