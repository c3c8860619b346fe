"""One timer for all running requests: their deadlines, keep-alives and slow clients, twice a second.

It also measures how late the event loop is, and writes log lines that have waited for their reader. It knows no engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from tailrace.observe import log_writer
from tailrace.server.callbacks import TimerCallbacks
from tailrace.server.loop_lag import LoopLag

#: Max seconds between two ticks.
_TICK_SECONDS = 0.5


class RequestTimer:
    """See the module."""

    def __init__(self, silence_seconds: float) -> None:
        """``silence_seconds``: the shortest silence that a stream must notice."""
        self.lag = LoopLag()  #: of the event loop
        self._seconds = min(_TICK_SECONDS, silence_seconds / 4)
        self._requests: set[TimerCallbacks] = set()
        self._log = structlog.get_logger()

    def add(self, request: TimerCallbacks) -> None:
        """Visit the request from now on."""
        self._requests.add(request)

    def remove(self, request: TimerCallbacks) -> None:
        """The opposite; harmless where the timer doesn't visit the request."""
        self._requests.discard(request)

    async def run(self, before: Callable[[float], None]) -> None:
        """Tick until this task is cancelled. ``before`` is called first at each tick, with the seconds since the last
        one: they are more than usual after a pause of this process.
        """
        loop = asyncio.get_running_loop()
        ticked = time.monotonic()
        while True:
            due = loop.time() + self._seconds
            await asyncio.sleep(self._seconds)
            self.lag.add(loop.time() - due)
            log_writer.flush()
            now = time.monotonic()
            before(now - ticked)
            ticked = now
            self._visit()

    def _visit(self) -> None:
        # A function of its own: a variable of ``run`` would keep the last request, and its reply, in memory.
        for request in list(self._requests):
            try:
                request.on_tick(self._seconds)
            except Exception as error:
                self.remove(request)
                self._report(request, error)

    def _report(self, request: TimerCallbacks, error: Exception) -> None:
        try:
            request.on_defect(error)
        except Exception:
            self._log.exception("a request's defect couldn't be reported to it")
