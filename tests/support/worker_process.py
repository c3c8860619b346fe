"""Starts real workers for tests."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from servers import PATIENCE

_LISTENS = re.compile(r"tailrace worker listens on (127\.0\.0\.1:\d+)")


class WorkerProcess:
    """One ``tailrace worker`` on loopback, with two threads. It listens when the constructor returns."""

    def __init__(
        self, *arguments: str, listen: str = "127.0.0.1:0", environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-worker-")
        self._log_path = Path(self._folder.name) / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        # The user's own settings and tensors must not apply. Compiled kernels are the user's.
        clean |= {"XDG_CONFIG_HOME": self._folder.name, **(environment or {})}
        command = [str(Path(sys.executable).with_name("tailrace")), "worker", "--listen", listen, "--threads", "2"]
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--cache-mb", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean,
            )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self.process.stdout is not None
        threading.Thread(target=lambda out: lines.put(out.readline()), args=(self.process.stdout,), daemon=True).start()
        found = _LISTENS.search(lines.get(timeout=PATIENCE))
        assert found, f"the worker ended before it listened:\n{self.log}"
        self.endpoint = found[1]

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        """End it, also while it is stopped."""
        self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._folder.cleanup()
