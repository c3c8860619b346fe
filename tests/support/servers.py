"""Starts real servers for tests, in processes of their own, and looks at those processes."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

#: Generous: machines that run tests may be slow, and no test is about this.
PATIENCE = 60.0

_LISTENS = re.compile(r"tailrace listens on https?://127\.0\.0\.1:(\d+)")


def wait_for(what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Poll until ``condition`` holds; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and isn't a zombie."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.strip().startswith("Z")


class ServerProcess:
    """One ``tailrace serve`` with its children. ``port`` is known once ``wait_ready`` has returned."""

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """``prefix``: a command that runs the rest of its line, such as ``prlimit``."""
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-test-")
        self._log_path = Path(self._folder.name) / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        # The user's own settings must not apply.
        clean |= {"XDG_STATE_HOME": self._folder.name}
        # Models of tests have paths of their own, so their states would only fill the user's disk.
        clean |= {"TAILRACE_KEEP_DISK_MB": "0"}
        clean |= {"XDG_CONFIG_HOME": self._folder.name, "TMPDIR": self._folder.name, **(environment or {})}
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, str(Path(sys.executable).with_name("tailrace")), "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.process.pid

    @property
    def log(self) -> str:
        """The standard error of all processes so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def temporary(self) -> Path:
        """The folder for temporary files of the server's own."""
        return Path(self._folder.name)

    def wait_ready(self) -> ServerProcess:
        """Return when the server has printed its address, which it does when its engine is ready."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if found := _LISTENS.search(line):
                self.port = int(found[1])
                return self
            assert line, f"the server ended before it was ready:\n{self.log}"

    def child(self, module: str) -> int | None:
        """The running child whose module this is (``engine`` or ``server``), if there is one."""
        return next(iter(self.children(module)), None)

    def children(self, module: str) -> list[int]:
        """Every running child whose module this is, in the order of their start."""
        found: list[int] = []
        shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
        for line in shown.stdout.splitlines():
            pid, parent, state, command = line.split(None, 3)
            wanted = int(parent) == self.pid and f"tailrace.{module}.process" in command
            if wanted and not state.startswith("Z"):
                found.append(int(pid))
        return sorted(found)

    @property
    def engine(self) -> int:
        """The engine's process."""
        pid = self.child("engine")
        assert pid is not None, f"no engine runs:\n{self.log}"
        return pid

    @property
    def http(self) -> int:
        """The HTTP process."""
        pid = self.child("server")
        assert pid is not None, f"no HTTP process runs:\n{self.log}"
        return pid

    def stop(self) -> int:
        """Ask it to stop, if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything, by force where needed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # The pipe ends when the last of the processes that have inherited it is gone.
        self._reader.join(20.0)
        assert not self._reader.is_alive(), f"a process has outlived its supervisor:\n{self.log}"
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._folder.cleanup()


def replace_http_process(server: ServerProcess) -> None:
    """Kill the HTTP process, and return when there is another one."""
    before = server.http
    os.kill(before, signal.SIGKILL)
    wait_for("another HTTP process", lambda: server.child("server") not in (None, before))


@contextlib.contextmanager
def serving(
    *arguments: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """A server that is ready, on a free port, for the time of the block."""
    server = ServerProcess("--port", "0", *arguments, environment=environment, prefix=prefix)
    try:
        yield server.wait_ready()
    finally:
        server.close()


def fake(*arguments: str, step: float = 0.0, **settings: str) -> contextlib.AbstractContextManager[ServerProcess]:
    """A server with the scripted backend, each engine step ``step`` seconds long; ``settings`` go by environment."""
    environment = {f"TAILRACE_{name.upper()}": value for name, value in settings.items()}
    environment["TAILRACE_FAKE_STEP_SECONDS"] = str(step)
    return serving("--backend", "fake", *arguments, environment=environment)
