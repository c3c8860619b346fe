"""Threads that work beside the loop and may not die unseen."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

import structlog

from tailrace.observe import log_writer
from tailrace.own_process.thread_name import name_thread
from tailrace.shared_memory.progress_page import ProgressPage

#: Exit status of a process whose helper thread died: it broke and may be started again.
EXIT_THREAD_DIED = 70


class HelperThread(threading.Thread):
    """A daemon thread whose death by an exception ends the process, with the exception in the log.

    The work of a dead thread would never be done: sequences would wait for a file, requests for their tokens. The
    supervisor starts the process again. An error of one item isn't a reason to die: ``work`` handles those itself.
    """

    def __init__(self, work: Callable[[], None], *, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        #: When it began the item that it works on; 0 while it waits, or where its items have a time limit of their own.
        self.begun = 0.0

    def run(self) -> None:
        """The thread's body."""
        name_thread(self.name)
        try:
            self._work()
        except BaseException:
            structlog.get_logger().critical("a helper thread has died", thread=self.name, exc_info=True)
            log_writer.standard_error().flush_last()
            os._exit(EXIT_THREAD_DIED)


def report_longest(helpers: Iterable[HelperThread], page: ProgressPage) -> float:
    """Report the item that a helper thread has worked on for the longest time. Returns these seconds."""
    begun = min((helper.begun for helper in helpers if helper.begun), default=0.0)
    page.helper = begun
    return time.monotonic() - begun if begun else 0.0
