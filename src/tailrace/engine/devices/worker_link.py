"""The connection to a worker's status port: the worker's reports, and the claim that an engine has on it."""

from __future__ import annotations

import socket

import msgspec

from tailrace.worker_status import (
    MAX_STATUS_BYTES,
    SILENCE_SECONDS,
    STATUS_PORT_OFFSET,
    Claim,
    OtherVersionError,
    WorkerStatus,
    decode_status,
    encode_claim,
)

#: Seconds in which a connection has to be made.
_CONNECT_SECONDS = 3.0


class WorkerUnavailableError(Exception):
    """A worker that can't be used now; the message says why."""


class WorkerVersionError(Exception):
    """A worker of another version of tailrace; the message says which is older."""


class WorkerLink:
    """See the module. ``status`` is the last report."""

    def __init__(self, endpoint: str) -> None:
        """Connect, and receive the first report. Raises WorkerUnavailableError and WorkerVersionError."""
        self.endpoint = endpoint
        self._engine: str | None = None  #: that has claimed the worker
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
        except (WorkerUnavailableError, WorkerVersionError):
            self.close()
            raise

    def claim(self, engine: str) -> None:
        """Claim the worker for ``engine``, and keep it as long as ``next_status`` is called. Raises
        WorkerUnavailableError where another engine has it.
        """
        self._engine = engine
        try:
            self._refuse_other()
            while self.next_status().holder is None:
                self._refuse_other()
            self._refuse_other()
        except WorkerUnavailableError:
            self._engine = None
            raise

    def check_claim(self) -> None:
        """Raise WorkerUnavailableError where the last report says that the claim has ended."""
        if self.status.holder != self._engine:
            raise WorkerUnavailableError(
                f"the worker at {self.endpoint} has given this engine up: it heard nothing of it for too long"
            )

    def _refuse_other(self) -> None:
        """Raise WorkerUnavailableError where another engine has the worker."""
        other = self.status.holder or self.status.client
        if other is not None and self.status.holder != self._engine:
            raise WorkerUnavailableError(
                f"the worker at {self.endpoint} is in use by {other}, and it has one engine at a time"
            )

    def next_status(self) -> WorkerStatus:
        """The next report, for which it waits. Raises WorkerUnavailableError where none comes, and
        WorkerVersionError.
        """
        try:
            if self._engine is not None:
                self._socket.sendall(encode_claim(Claim(self._engine)))
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
        except OtherVersionError as error:
            which = "an older" if error.is_older else "a newer"
            raise WorkerVersionError(
                f"the worker at {self.endpoint} has {which} version of tailrace than this machine: install the same on "
                "both"
            ) from error
        except msgspec.DecodeError as error:
            raise WorkerUnavailableError(f"what answers at {self.endpoint} is no tailrace worker: {error}") from error
        return self.status

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
