"""The thread of a SQLite store. It does all of the store's work, in order: the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

T = TypeVar("T")


class StoreThread:
    """One thread. Work that is submitted later sees the results of earlier work."""

    def __init__(self, name: str, failure: str) -> None:
        """``failure`` is the log's text for a failed ``submit``."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._failure = failure

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        """Start the work and return at once. A failure is logged: the client has its reply by then."""
        self._executor.submit(work, *arguments).add_done_callback(self._log_failure)

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work, and wait for its result."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self, work: Callable[[], object]) -> None:
        """Finish all submitted work, and ``work`` as the last."""
        self._executor.submit(work)
        self._executor.shutdown()

    def _log_failure(self, done: Future[object]) -> None:
        if (error := done.exception()) is not None:
            structlog.get_logger().error(self._failure, error=str(error))
