"""The process of one ingress, and its life: it is started again when it ends, and told of the replicas.

It isn't tied to this process: when this one dies it goes on for a while, says that Ray is gone, and ends by itself
(``ingress.orders``). Ray isn't imported here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import IO

import msgspec
import structlog

from tailrace.cluster.directory_book import Table
from tailrace.cluster.ingress.orders import (
    IngressStart,
    Listening,
    Order,
    ReplicaSeen,
    SetModels,
    Stop,
    Wanted,
    decode_report,
    encode,
)
from tailrace.cluster.ingress_feed import IngressFeed
from tailrace.cluster.ingress_place import VARIABLE, listen, place_of, take_over

_MODULE = "tailrace.cluster.ingress.process"
#: Seconds before a process that has ended is started again; ten times as many after a short life.
_AGAIN_SECONDS = 0.1
_SHORT_LIFE_SECONDS = 5.0
#: Seconds for which a report of waiting requests holds. It is repeated every second.
_WANTED_SECONDS = 2.5
#: Seconds beyond the time for running replies in which an ingress has ended.
_END_SECONDS = 15.0


class IngressProcess:
    """See the module. It listens itself, so that connections wait while a process is started again."""

    def __init__(self, start: IngressStart, models: SetModels) -> None:
        """``start`` and ``models``: the first orders of each process. Raises ConfigurationError where the address can't
        be had.
        """
        self._socket = listen(start.settings)
        self._place = place_of(start.settings)
        self._start = msgspec.structs.replace(start, socket_fd=self._socket.fileno())
        self._models = models
        self._feed = IngressFeed()
        self._wanted: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()  # Of the feed and of what is written to the process.
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self.port = 0  #: 0 while none listens
        self.starts = 0  #: processes so far
        self.has_replica = False  #: whether the process has had a replica that takes requests
        self._thread = threading.Thread(target=self._live, name="ingress process", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process; 0 before the first."""
        return self._process.pid if self._process is not None else 0

    def update(self, table: Table) -> None:
        """Tell the process what is new of the replicas."""
        with self._lock:
            self._write(self._feed.update(table))

    def take_over(self) -> None:
        """End the process that another actor has left at this address."""
        if self._start.settings.port and take_over(self._place, self.pid):
            structlog.get_logger().info("the ingress has taken over the address")

    def wanted(self) -> dict[str, int]:
        """The requests that wait for a replica now, by model."""
        now = time.monotonic()
        with self._lock:
            return {model: count for model, (at, count) in self._wanted.items() if count and now - at < _WANTED_SECONDS}

    def stop(self) -> None:
        """Have running replies end within their time, then the process. Returns when it has ended."""
        self._stopping.set()
        with self._lock:
            self._write([Stop()])
        self._thread.join(self._start.settings.drain_seconds + _END_SECONDS)
        if self._thread.is_alive() and self._process is not None:
            structlog.get_logger().warning("the ingress didn't end in time; killing it")
            self._process.kill()
            self._thread.join()
        self._socket.close()

    def _live(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._run_once()
            self.port = 0
            is_short = time.monotonic() - began < _SHORT_LIFE_SECONDS
            self._stopping.wait(_AGAIN_SECONDS * (10 if is_short else 1))

    def _run_once(self) -> None:
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", _MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._socket.fileno(),),
            env={**os.environ, VARIABLE: self._place},
            start_new_session=True,  # A signal for this process's group isn't meant for it.
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with self._lock:
            self._process = process
            self.starts += 1
            self._write([self._start, self._models, *self._feed.all_orders()])
            if self._stopping.is_set():  # ``stop`` has written to the process before.
                self._write([Stop()])
        try:
            self._read(process.stdout)
        finally:
            with self._lock, contextlib.suppress(OSError):
                process.stdin.close()
            status = process.wait()
            process.stdout.close()
        if not self._stopping.is_set():
            structlog.get_logger().warning("the ingress has ended and is started again", status=status)

    def _read(self, reports: IO[bytes]) -> None:
        for line in reports:
            try:
                report = decode_report(line)
            except msgspec.DecodeError:
                structlog.get_logger().warning("the ingress has reported something else", line=line[:200])
                continue
            if isinstance(report, Listening):
                self.port = report.port
            elif isinstance(report, ReplicaSeen):
                self.has_replica = self.has_replica or report.phase == "ready"
            elif isinstance(report, Wanted):
                with self._lock:
                    self._wanted[report.model] = (time.monotonic(), report.requests)

    def _write(self, orders: Iterable[IngressStart | Order]) -> None:
        """Write to the process, whose end is noticed by the reader. The lock is held."""
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"".join(map(encode, orders)))
            self._process.stdin.flush()
