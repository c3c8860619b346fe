"""One child: its start, its page, its death and its end. It decides nothing about when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from tailrace.child import Start
from tailrace.progress_page import Phase, ProgressPage, create_page
from tailrace.supervisor.restarts import Restarts
from tailrace.supervisor.stray_output import StrayOutput
from tailrace.supervisor.watch import Watch

#: Blocked in a child until it has handlers: by default they would end it.
_BLOCKED_AT_START = (signal.SIGHUP, signal.SIGUSR1)


@dataclass
class ChildProcess:
    """See the module. ``fds``: file descriptors that it inherits; ``number``: its place on the page of lives."""

    name: str
    module: str
    orders: Start  #: given to it at each start, with the page of that start
    fds: tuple[int, ...]
    restarts: Restarts
    stray: StrayOutput
    number: int
    process: subprocess.Popen[bytes] | None = None
    page: ProgressPage | None = None
    watch: Watch | None = None
    started: float = 0.0
    start_at: float | None = None  #: when it is started again; None: it runs or stays dead
    killed_for: str | None = None  #: why the supervisor has killed it

    def start(self, hang_seconds: float) -> None:
        """Start the process. Raises OSError when the system has no process, descriptor or memory for it."""
        self.forget()
        fd = create_page()
        try:
            self.page = ProgressPage(fd)
            process = self._open(fd)
        finally:
            os.close(fd)
        self.process, self.started = process, time.monotonic()
        page = self.page
        self.watch = Watch(page, process.pid, hang_seconds)
        self.start_at = self.killed_for = None
        assert process.stdin is not None
        assert process.stderr is not None
        self.stray.read(self.name, process.stderr)
        try:
            given = msgspec.structs.replace(self.orders, progress_fd=fd)
            process.stdin.write(msgspec.json.encode(given))
            process.stdin.close()
        except BrokenPipeError:
            pass  # It died at once: its exit status is noticed.

    def _open(self, page_fd: int) -> subprocess.Popen[bytes]:
        # A signal that comes now is delivered to the child when it has its handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_AT_START)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*self.fds, page_fd),
                # A terminal's Ctrl-C goes to the supervisor alone, which then stops the children in order.
                process_group=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int | None:
        """The process id; None before the first start."""
        return self.process.pid if self.process is not None else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and its death hasn't been noticed."""
        return self.process is not None and self.process.returncode is None

    @property
    def serves(self) -> bool:
        """Whether it runs and serves now."""
        return self.is_running and self.page is not None and self.page.phase == Phase.SERVING

    @property
    def was_ready(self) -> bool:
        """Whether this run of it, which may have ended, became ready."""
        return self.page is not None and self.page.has_served

    def poll(self) -> int | None:
        """The status of a process that has died since the last call."""
        return self.process.poll() if self.process is not None and self.process.returncode is None else None

    def send(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def has_aborted(self, status: int) -> bool:
        """Whether it has ended itself while it loaded, and has said why."""
        return status == -signal.SIGABRT and self.page is not None and bool(self.page.message) and not self.was_ready

    def death_reason(self, status: int) -> str:
        """Why it has died, in words."""
        message = self.page.message if self.page is not None else ""
        if self.killed_for is not None:
            return f"it hung and was killed: {self.killed_for}"
        if message:
            return f"{status_name(status)}: {message}"
        if status == -signal.SIGKILL:
            return "SIGKILL, from the kernel when memory runs out, or by hand"
        return status_name(status)

    def forget(self) -> None:
        """Let go of the last run's page."""
        if self.page is not None:
            self.page.close()
        self.page = self.watch = None


def status_name(status: int) -> str:
    """An exit status as the log shows it; a negative one is the signal that has ended the process."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"  # Python has no names for most real-time signals.
