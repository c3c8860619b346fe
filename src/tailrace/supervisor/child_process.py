"""One child: its start, its page, its death and its end. It decides nothing about when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO

import msgspec

from tailrace.child import Start
from tailrace.shared_memory.memory_file import create_page
from tailrace.shared_memory.progress_page import Phase, ProgressPage
from tailrace.supervisor.restarts import Restarts
from tailrace.supervisor.stray_output import StrayOutput
from tailrace.supervisor.watch import Watch

#: Blocked in a child until it has handlers: by default they would end it.
_BLOCKED_AT_START = (signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class WaitingProcess:
    """A process that waits for orders, with its page and the page's descriptor in the process."""

    process: subprocess.Popen[bytes]
    page: ProgressPage
    page_fd: int


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
    has_served: bool = False  #: whether an earlier run of it has become ready

    def start(self, hang_seconds: float, waiting: WaitingProcess | None = None) -> None:
        """Start the process. ``waiting``: one that becomes it; it has the file descriptors already.

        Raises OSError when the system has no process, descriptor or memory for it.
        """
        self.forget()
        if waiting is None:
            self._start_anew()
        else:
            self.process, self.page = waiting.process, waiting.page
            give_orders(waiting.process, self._orders(waiting.page_fd))
        assert self.process is not None
        assert self.page is not None
        self.started = time.monotonic()
        self.watch = Watch(self.page, self.process.pid, hang_seconds)
        self.start_at = self.killed_for = None
        assert self.process.stderr is not None
        self.stray.read(self.name, self.process.stderr)

    def _start_anew(self) -> None:
        fd = create_page()
        try:
            self.page = ProgressPage(fd)
            # A pipe would hold up the supervisor until the child reads, which has many models' settings to read.
            with orders_file(self._orders(fd)) as file:
                self.process = open_process(self.module, (*self.fds, fd), file)
        finally:
            os.close(fd)

    def _orders(self, page_fd: int) -> bytes:
        orders = msgspec.structs.replace(self.orders, progress_fd=page_fd, has_served=self.has_served)
        return msgspec.json.encode(orders)

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
    def waits_for_worker(self) -> bool:
        """Whether it runs and can't serve before a worker is there."""
        return self.is_running and self.page is not None and self.page.waits_for_worker

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
            self.has_served = self.has_served or self.page.has_served
            self.page.close()
        self.page = self.watch = None


def open_process(
    module: str, fds: tuple[int, ...], stdin: IO[bytes] | int, arguments: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a process of this module that inherits ``fds``. Raises OSError."""
    # A signal that comes now is delivered to the child when it has its handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_AT_START)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=stdin,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            # A terminal's Ctrl-C goes to the supervisor alone, which then stops the children in order.
            process_group=0,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def orders_file(orders: bytes) -> IO[bytes]:
    """A file that has the orders and no name. It is in memory, because there are keys in it. Raises OSError."""
    file: IO[bytes] = (
        os.fdopen(os.memfd_create("tailrace-orders"), "w+b")
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    )
    file.write(orders)
    file.seek(0)
    return file


def give_orders(process: subprocess.Popen[bytes], orders: bytes) -> None:
    """Give a process that waits on its standard input one model's orders, which a pipe has space for."""
    assert process.stdin is not None
    try:
        process.stdin.write(orders)
        process.stdin.close()
    except BrokenPipeError:
        pass  # It died at once: its exit status is noticed.


def status_name(status: int) -> str:
    """An exit status as the log shows it; a negative one is the signal that has ended the process."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"  # Python has no names for most real-time signals.
