"""A service manager's socket, as systemd has one (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time


class Manager:
    """A service manager's socket, and what it has heard."""

    def __init__(self) -> None:
        self.name = f"@tailrace-test-{os.getpid()}-{time.monotonic_ns()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name.replace("@", "\0"))
        self._socket.setblocking(False)
        self._heard: list[str] = []

    @property
    def heard(self) -> list[str]:
        """All messages so far."""
        while True:
            try:
                self._heard.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._heard

    def count(self, start: str) -> int:
        """How many messages begin with this text."""
        return sum(message.startswith(start) for message in self.heard)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
