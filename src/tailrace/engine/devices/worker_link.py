"""The connection to a worker's status port: the worker's reports, and the claim that an engine has on it."""

from __future__ import annotations

import socket
import time

from tailrace.engine.devices.worker_address import find_address
from tailrace.engine.devices.worker_errors import WorkerUnavailableError, WorkerVersionError
from tailrace.worker_protocol.status import (
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


class WorkerLink:
    """See the module. ``status`` is the last report."""

    def __init__(self, endpoint: str) -> None:
        """Connect, and receive the first report. Raises WorkerUnavailableError, WorkerVersionError, and
        ConfigurationError for an address that no worker has.
        """
        self.endpoint = endpoint
        self._engine: str | None = None  #: that has claimed the worker
        host, _, port = endpoint.rpartition(":")
        self.port = int(port)
        self.address = find_address(host)  #: IPv4
        status_port = self.port + STATUS_PORT_OFFSET
        self._rest = b""
        try:
            self._socket = socket.create_connection((self.address, status_port), timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise WorkerUnavailableError(
                f"no worker answers at {endpoint} (its status port {status_port}: {error.strerror or error}); "
                f"start one there: tailrace worker --listen {endpoint}"
            ) from error
        try:
            self.status = self.next_status()
        except WorkerVersionError:
            self.close()
            raise
        except WorkerUnavailableError as error:
            self.close()
            raise WorkerUnavailableError(f"{error}. Is a tailrace worker there?") from error

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
        if self.user is not None and self.status.holder != self._engine:
            raise WorkerUnavailableError(
                f"the worker at {self.endpoint} is in use by {self.user}, and it has one engine at a time"
            )

    @property
    def user(self) -> str | None:
        """The engine that has the worker, as of the last report: its name, or its address."""
        return self.status.holder or self.status.client

    def next_status(self) -> WorkerStatus:
        """The next report, for which it waits. Raises WorkerUnavailableError where none comes, and
        WorkerVersionError.
        """
        due = time.monotonic() + SILENCE_SECONDS
        try:
            self._socket.settimeout(SILENCE_SECONDS)
            if self._engine is not None:
                self._socket.sendall(encode_claim(Claim(self._engine)))
            while b"\n" not in self._rest:
                # A few bytes at a time are silence, too.
                self._socket.settimeout(max(0.001, due - time.monotonic()))
                received = self._socket.recv(MAX_STATUS_BYTES)
                if not received:
                    raise WorkerUnavailableError(f"the worker at {self.endpoint} has ended")
                self._rest += received
                # Many reports may have come while this process was suspended.
                if len(self._rest) > MAX_STATUS_BYTES and b"\n" not in self._rest:
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
        except ValueError as error:
            raise WorkerUnavailableError(f"what answers at {self.endpoint} is no tailrace worker: {error}") from error
        return self.status

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
