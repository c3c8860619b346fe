"""An engine's process that has its modules before there are orders for it, so that a load doesn't wait for Python.

There is one at most. It is started when no model loads and no engine computes, because its imports would take their
time. It waits on its standard input: ``child.Standby`` says what it gets, and ``engine.standby`` what it does.
"""

from __future__ import annotations

import os
import signal
import subprocess

import msgspec
import structlog

from tailrace.child import Standby
from tailrace.shared_memory.memory_file import create_page
from tailrace.shared_memory.progress_page import ProgressPage
from tailrace.supervisor.child_process import WaitingProcess, open_process

#: Seconds without a load before a standby is started: a burst of loads comes first.
_QUIET_SECONDS = 1.0
#: Seconds after which it is started although engines compute: a busy server switches models, too.
_PATIENCE_SECONDS = 15.0
#: Seconds until the next try after a standby has died, or was refused.
_RETRY_SECONDS = 60.0


class StandbyEngine:
    """See the module."""

    def __init__(self, argument: Standby, fds: tuple[int, ...]) -> None:
        """``fds``: what an engine inherits beside its page."""
        self._argument = msgspec.json.encode(argument).decode()
        self._fds = fds
        self._waiting: WaitingProcess | None = None
        self._start_at = 0.0  #: not before
        self._quiet_since: float | None = None  #: since when no model loads

    @property
    def pid(self) -> int | None:
        """The process that waits; None: there is none."""
        return self._waiting.process.pid if self._waiting is not None else None

    def take(self) -> WaitingProcess | None:
        """The process that waits, for an engine to be; None: there is none that lives."""
        waiting, self._waiting = self._waiting, None
        self._quiet_since = None
        if waiting is not None and waiting.process.poll() is None:
            return waiting
        if waiting is not None:
            self._give_back(waiting)
        return None

    def look(self, now: float, *, loads: bool, computes: bool) -> None:
        """Start one where it is time for it. ``loads``: a model loads; ``computes``: an engine computes."""
        if self._waiting is not None:
            if (status := self._waiting.process.poll()) is not None:
                structlog.get_logger().warning("a standby engine process died", status=status)
                self._give_back(self._waiting)
                self._waiting, self._start_at = None, now + _RETRY_SECONDS
            return
        if loads:
            self._quiet_since = None
            return
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        if now < self._start_at or now - self._quiet_since < (_PATIENCE_SECONDS if computes else _QUIET_SECONDS):
            return
        try:
            self._start()
        except (OSError, MemoryError):
            self._start_at = now + _RETRY_SECONDS  # Models are loaded without one.

    def _start(self) -> None:
        fd = create_page()
        try:
            page = ProgressPage(fd)
            fds = (*self._fds, fd)
            process = open_process("tailrace.engine.process", fds, subprocess.PIPE, (self._argument,))
            self._waiting = WaitingProcess(process, page, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """End it; it holds nothing that has to be saved."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        if waiting.process.poll() is None:
            waiting.process.send_signal(signal.SIGKILL)
            waiting.process.wait()
        self._give_back(waiting)

    def _give_back(self, waiting: WaitingProcess) -> None:
        for pipe in (waiting.process.stdin, waiting.process.stderr):
            if pipe is not None:
                pipe.close()
        waiting.page.close()
