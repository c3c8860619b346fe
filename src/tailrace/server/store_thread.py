"""The thread of a SQLite store. It does all of the store's work, in order: the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from tailrace.errors import StorageUnavailable

T = TypeVar("T")

#: SQLite's codes for a file that isn't a whole database.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoreThread:
    """One thread. Work that is submitted later sees the results of earlier work."""

    def __init__(self, name: str, failure: str, replace: Callable[[], None] | None = None) -> None:
        """``failure`` is the log's text for work that fails. ``replace``: put a damaged file aside, so that the next
        work begins a new one; called on the thread. None: the work itself handles it.
        """
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._failure = failure
        self._replace = replace

    def submit(self, work: Callable[..., object], *arguments: Any, failed: Callable[[], None] | None = None) -> None:
        """Start the work and return at once. A failure is logged, and ``failed`` is called on the thread: the client
        has its reply by then.
        """

        def guarded() -> object:
            try:
                return self._attempt(lambda: work(*arguments))
            except BaseException:
                if failed is not None:
                    failed()
                raise

        done: Future[object] = self._executor.submit(guarded)
        done.add_done_callback(self._log_failure)

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work, and wait for its result. Raises StorageUnavailable where the file can't be used."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._attempt, work)
        except (OSError, sqlite3.Error) as error:
            structlog.get_logger().error(self._failure, error=str(error))
            raise StorageUnavailable(
                "This server can't read or write what it stores for clients now; its log says why. Try again later, "
                "or send the request without storing anything."
            ) from error

    def close(self, work: Callable[[], object]) -> None:
        """Finish all submitted work, and ``work`` as the last."""
        self._executor.submit(work)
        self._executor.shutdown()

    def _attempt(self, work: Callable[[], T]) -> T:
        """Do the work; with a new file, where the file is damaged."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if self._replace is None or getattr(error, "sqlite_errorcode", None) not in _DAMAGED:
                raise
            self._replace()
            return work()

    def _log_failure(self, done: Future[object]) -> None:
        if (error := done.exception()) is not None:
            structlog.get_logger().error(self._failure, error=str(error))
