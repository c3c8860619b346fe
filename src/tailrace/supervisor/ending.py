"""The end of children: each is asked to end, and killed if it doesn't in time."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Sequence

import structlog

from tailrace.supervisor.child_process import ChildProcess
from tailrace.supervisor.service_manager import ServiceManager
from tailrace.supervisor.signal_queue import SignalQueue


class Ending:
    """Ends children while the service manager gets signs of life. ``stops``: signals that ask for haste.

    ``period``: seconds between two signs of life.
    """

    def __init__(self, signals: SignalQueue, manager: ServiceManager, period: float, stops: Collection[int]) -> None:
        self._signals = signals
        self._manager = manager
        self._period = period
        self._stops = stops

    def end(self, children: Sequence[ChildProcess], grace: float) -> int:
        """Ask the children to end, and kill those that don't within ``grace`` seconds. Returns the signal that asks for
        haste, or 0.
        """
        for child in children:
            if child.is_running:
                child.send(signal.SIGTERM)
                child.send(signal.SIGCONT)  # A stopped process ends, too.
        deadline = time.monotonic() + grace
        killed = False
        while running := [child for child in children if child.is_running and child.poll() is None]:
            now = time.monotonic()
            if now >= deadline and not killed:
                killed = True
                for child in running:
                    structlog.get_logger().warning(f"the {child.name} process didn't stop in time; killing it")
                    child.send(signal.SIGKILL)
            self._manager.sign_of_life(now, self._period)
            for number in self._signals.wait(self._period if killed else min(self._period, deadline - now)):
                if number in self._stops:
                    return number
        return 0
