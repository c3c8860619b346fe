"""Starts a cluster's ingress for tests, in a process of its own, and gives it orders as its parent does."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from servers import PATIENCE
from tailrace.cluster.ingress.orders import (
    AddReplica,
    ClusterModel,
    IngressStart,
    Listening,
    Order,
    ReplicaSeen,
    Report,
    SetModels,
    Wanted,
    decode_report,
    encode,
)
from tailrace.settings import Settings

#: The secret of tests' clusters, for replicas' ``cluster_secret``.
SECRET = "the-secret-of-a-test"


class IngressProcess:
    """One ingress. ``port`` is known once it listens."""

    def __init__(self, *, start: Mapping[str, Any] | None = None, **settings: Any) -> None:
        """``start``: fields of the ``IngressStart``; ``settings``: those of the HTTP side."""
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-test-")
        self._log_path = Path(self._folder.name) / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        environment |= {"XDG_STATE_HOME": self._folder.name, "XDG_CONFIG_HOME": self._folder.name}
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.cluster.ingress.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self.reports: list[Report] = []  #: all so far, as far as they were waited for
        self._queue: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        known = Settings(**{"port": 0, "cluster_secret": SECRET, **settings})
        self._write(encode(IngressStart(settings=known, **(start or {}))))
        self.port = self._wait(lambda report: isinstance(report, Listening)).port  # type: ignore[union-attr]

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def order(self, message: Order) -> None:
        """Give it an order."""
        self._write(encode(message))

    def add(self, identity: str, port: int, phase: str = "ready") -> None:
        """Add a replica, and return when its phase is known to the ingress."""
        self.order(AddReplica(identity, "127.0.0.1", port))
        self.wait_phase(identity, phase)

    def serve(self, *models: ClusterModel) -> None:
        """Set the models."""
        self.order(SetModels(models))

    def wait_phase(self, identity: str, phase: str) -> None:
        """Return when the ingress reports this phase of the replica."""
        self._wait(lambda report: report == ReplicaSeen(identity, phase))

    def wait_wanted(self, model: str, requests: int = 1) -> None:
        """Return when the ingress reports that so many requests wait for the model."""
        self._wait(lambda report: report == Wanted(model, requests))

    def abandon(self) -> None:
        """End its standard input, as a parent does that dies."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self) -> int:
        """Ask it to drain; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Let go of everything, by force where needed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._folder.cleanup()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(decode_report(line))
        self._queue.put(None)

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _wait(self, condition: Any) -> Report:
        deadline = time.monotonic() + PATIENCE
        while True:
            report = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            assert report is not None, f"the ingress ended:\n{self.log}"
            self.reports.append(report)
            if condition(report):
                return report


@contextlib.contextmanager
def ingress(
    replicas: Mapping[str, int] | Sequence[int], *, start: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[IngressProcess]:
    """An ingress in front of ready replicas, which are named ``r0``, ``r1`` and so on where they have no names."""
    named = replicas if isinstance(replicas, Mapping) else {f"r{number}": port for number, port in enumerate(replicas)}
    process = IngressProcess(start=start, **settings)
    try:
        for identity, port in named.items():
            process.add(identity, port)
        yield process
    finally:
        process.close()
