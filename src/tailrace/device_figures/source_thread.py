"""Reads one source of figures in a thread of its own, when it is asked to.

A driver's library can hang for minutes while a driver is loaded again, or for good. The thread hangs with it then, and
its figures are missing: nothing else waits for it, and it ends with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tailrace.own_process.thread_name import name_thread
from tailrace.worker_protocol.device_reading import DeviceReading

#: Seconds for which a reading counts. After that its figures are missing.
STALE_SECONDS = 10.0
#: Seconds for which a reading is new enough for all that ask.
_SHARED_SECONDS = 0.5
#: Seconds after which a reading isn't waited for, and those after which it counts as hanging.
_SLOW_SECONDS = 1.0
HANG_SECONDS = 5.0
#: Seconds after an error until the source is asked again, and between two log lines about it.
_PAUSE_SECONDS, _LOG_SECONDS = 10.0, 600.0


class SourceThread:
    """See the module. Its methods never wait, but for ``wait``."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Sequence[DeviceReading]],
        clock: Callable[[], float] = time.monotonic,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        """``name``: of the source, for the log. ``read`` may raise anything. ``pause``: seconds after an error."""
        self._name = name
        self._read = read
        self._clock = clock
        self._pause = pause
        self._state = threading.Condition()
        self._wanted = False
        self._begun: float | None = None  #: when the reading in progress has begun
        self._readings: tuple[DeviceReading, ...] = ()
        self._read_at = -STALE_SECONDS
        self._not_before = 0.0  #: until then it isn't asked again, after an error
        self._logged_at = -_LOG_SECONDS
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Begin a reading, unless there is a new one or one in progress."""
        now = self._clock()
        with self._state:
            if self._begun is not None:
                if now - self._begun >= HANG_SECONDS:
                    self._log(now, "it doesn't answer")
                return
            if now - self._read_at < _SHARED_SECONDS or now < self._not_before:
                return
            self._wanted = True
            self._state.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tailrace-figures", daemon=True)
                self._thread.start()

    @property
    def is_awaited(self) -> bool:
        """Whether a reading that was asked for has yet to come, and may come soon."""
        with self._state:
            return self._is_awaited(self._clock())

    def _is_awaited(self, now: float) -> bool:
        return self._wanted or (self._begun is not None and now - self._begun < _SLOW_SECONDS)

    def wait(self, deadline: float) -> None:
        """Wait for the reading that was asked for, until ``deadline`` at most. One that hangs isn't waited for."""
        with self._state:
            while self._is_awaited(now := self._clock()) and now < deadline:
                self._state.wait(deadline - now)

    def latest(self) -> tuple[DeviceReading, ...]:
        """The last reading; empty where that is too old, or failed."""
        with self._state:
            return self._readings if self._clock() - self._read_at < STALE_SECONDS else ()

    def _run(self) -> None:
        name_thread("tailrace-figures")
        while True:
            with self._state:
                while not self._wanted:
                    self._state.wait()
                self._wanted = False
                self._begun = self._clock()
            readings: tuple[DeviceReading, ...] = ()
            problem = ""
            try:
                readings = tuple(self._read())
            except Exception as error:  # A driver's library may raise anything, and no request is at fault.
                problem = str(error) or type(error).__name__
            with self._state:
                self._begun = None
                now = self._read_at = self._clock()
                self._readings = readings
                if problem:
                    self._not_before = now + self._pause
                    self._log(now, problem)
                self._state.notify_all()

    def _log(self, now: float, problem: str) -> None:
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            structlog.get_logger().warning("figures of devices are missing", source=self._name, reason=problem)
