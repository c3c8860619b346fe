"""systemd's notification protocol (sd_notify(3), sd_watchdog_enabled(3)), without a library.

A service of ``Type=notify`` says when it is ready, reloads and stops, and with ``WatchdogSec=`` that it makes progress.
Without systemd's environment variables nothing is sent. A message that can't be sent is dropped: the server goes on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

#: While the model loads, systemd's start time limit is moved ahead by this, in microseconds.
_EXTEND_USEC = 60_000_000


class ServiceManager:
    """The socket to the service manager, if there is one."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of ``environment`` (the process's own), so that no child speaks for the server."""
        environment = os.environ if environment is None else environment
        self._address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        #: Seconds between two signs of life: half of what systemd waits for. None: it wants none.
        self.watchdog_seconds = int(usec) / 2e6 if meant and usec.isdecimal() and int(usec) > 0 else None
        if not self._address:
            self.watchdog_seconds = None
        self._status = ""
        self._next_sign = 0.0

    @property
    def is_there(self) -> bool:
        """Whether messages reach a service manager."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The model is served; also ends ``reloading``."""
        self._send(f"READY=1\nSTATUS={status}")
        self._status = status

    def reloading(self) -> None:
        """Files are read again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Running replies have time to finish."""
        self._send("STOPPING=1\nSTATUS=stopping: running replies finish")

    def extend_start(self) -> None:
        """The model is still loading, and makes progress."""
        self._send(f"EXTEND_TIMEOUT_USEC={_EXTEND_USEC}")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows; sent when it changes."""
        if text != self._status:
            self._send(f"STATUS={text}")
            self._status = text

    def sign_of_life(self, now: float, period: float) -> None:
        """Everything makes progress. ``period``: seconds until the next call. Sent when it is due before that."""
        if self.watchdog_seconds is not None and now + period > self._next_sign:
            self._send("WATCHDOG=1")
            self._next_sign = now + self.watchdog_seconds

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace, whose names begin with a zero byte.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            return  # A service manager that doesn't read is no reason to stop serving.
