"""Follows the state channel of one replica from a thread, for its actor: its phase and load in a ``ReplicaView``."""

from __future__ import annotations

import socket
import threading

import structlog

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.state_parser import ChannelError, StateParser, request_head
from tailrace.cluster_protocol.state import SILENCE_SECONDS

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
        while not self._stopped.is_set():
            try:
                self._read()
            except (OSError, ChannelError, ValueError) as error:
                structlog.get_logger().debug("a replica's state can't be read", error=str(error))
            self.view.mark_gone()
            self._stopped.wait(_RETRY_SECONDS)

    def _read(self) -> None:
        parser = StateParser()
        with socket.create_connection((self.view.host, self.view.port), timeout=SILENCE_SECONDS) as connection:
            connection.sendall(request_head(self.view.host, self.view.port, self._secret))
            while not (self._stopped.is_set() or parser.has_ended) and (data := connection.recv(65_536)):
                for message in parser.feed(data):
                    self.view.apply(message)
