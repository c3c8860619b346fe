"""What the dashboard knows between two requests of a page: the running requests, the last minutes, the log's reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tailrace.server.dashboard.history import HistoryRecorder
from tailrace.server.dashboard.running_requests import RunningRequests
from tailrace.server.models.model_service import ModelService
from tailrace.shared_memory.log_page import LogPage, LogReader


class Dashboard:
    """See the module. There is one in the process."""

    def __init__(self, services: Callable[[], Iterable[ModelService]], waiting: Callable[[], int]) -> None:
        """``services``: the served models; ``waiting``: how many requests wait."""
        self.started = time.time()
        self.running = RunningRequests()
        self.history = HistoryRecorder(lambda: (each for each in services() if each.engine.is_connected), waiting)
        self.log = LogReader(None)  #: of a server without a supervisor: without lines

    def read_log(self, fd: int) -> None:
        """Show the log lines of this shared memory (``shared_memory.log_page``)."""
        self.log = LogReader(LogPage(fd))
