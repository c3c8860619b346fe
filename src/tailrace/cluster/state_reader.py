"""Follows the state channel of one replica from a thread, for its actor: its phase and load in a ``ReplicaView``."""

from __future__ import annotations

import http.client
import threading

import msgspec
import structlog

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_state import SECRET_HEADER, SILENCE_SECONDS, StateMessage

#: Seconds before a broken channel is opened again.
_RETRY_SECONDS = 0.5


class StateReader:
    """See the module. ``view`` is changed by the thread alone; whole values of it are read elsewhere."""

    def __init__(self, view: ReplicaView, secret: str) -> None:
        self.view = view
        self._secret = secret
        self._stopped = threading.Event()
        threading.Thread(target=self._follow, name="state channel", daemon=True).start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stopped.set()

    def _follow(self) -> None:
        decoder: msgspec.json.Decoder[StateMessage] = msgspec.json.Decoder(StateMessage)
        while not self._stopped.is_set():
            try:
                self._read(decoder)
            except (OSError, http.client.HTTPException, msgspec.DecodeError, ValueError) as error:
                structlog.get_logger().debug("a replica's state can't be read", error=str(error))
            self.view.mark_gone()
            self._stopped.wait(_RETRY_SECONDS)

    def _read(self, decoder: msgspec.json.Decoder[StateMessage]) -> None:
        connection = http.client.HTTPConnection(self.view.host, self.view.port, timeout=SILENCE_SECONDS)
        try:
            connection.request("GET", "/cluster/state", headers={SECRET_HEADER: self._secret})
            response = connection.getresponse()
            if response.status != 200:
                raise http.client.HTTPException(f"status {response.status}")
            while not self._stopped.is_set() and (line := response.readline()):
                self.view.apply(decoder.decode(line))
        finally:
            connection.close()
