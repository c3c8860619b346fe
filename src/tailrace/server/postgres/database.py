"""The pool of connections that the event loop uses: threads do the work, each with a connection of its own.

No call holds the event loop, and none takes longer than ``LIMIT_SECONDS``. When PostgreSQL can't be reached, calls fail
at once from then on. One thread tries to connect once a second, and calls work again when that succeeds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_all
from typing import Any, Generic, TypeVar

import structlog

from tailrace.errors import StorageUnavailable
from tailrace.server.postgres.connection import CONNECT_SECONDS, STATEMENT_SECONDS, Connection, DatabaseFailure
from tailrace.server.postgres.schema import bring_up_to_date

T = TypeVar("T")

#: Seconds that one call may take, with the wait for a free thread and the time to connect.
LIMIT_SECONDS = float(CONNECT_SECONDS + STATEMENT_SECONDS + 2)
#: Seconds between two attempts to connect to a PostgreSQL that is gone.
_RETRY_SECONDS = 1.0
#: Calls that may wait for a thread. A call holds what it stores.
_MAX_WAITING = 1000


class Database:
    """See the module. Nothing connects before the first call."""

    def __init__(self, address: str, *, name: str, connections: int) -> None:
        """``name``: what the threads are called, and the log calls it."""
        self._address = address
        self._name = name
        self._changes: dict[str, Sequence[str]] = {}
        self._executor = ThreadPoolExecutor(connections, thread_name_prefix=name)
        self._lock = threading.Lock()  #: over all that follows
        self._idle: list[Connection] = []
        self._jobs: dict[Future[Any], _Job[Any]] = {}
        self._is_current = False  #: whether the tables are known to be up to date
        self._failure: str | None = None  #: why PostgreSQL can't be reached
        self._closed = threading.Event()

    def use(self, part: str, changes: Sequence[str]) -> None:
        """Have the tables of this part: ``changes`` make each version of the one before. Called before the first call
        of ``run``.
        """
        self._changes[part] = changes

    def is_gone(self) -> bool:
        """Whether PostgreSQL couldn't be reached lately: calls fail at once."""
        return self._failure is not None

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """Start the work on a thread. The future raises DatabaseFailure, or what the work raises."""
        failed: Future[T] = Future()
        with self._lock:
            if self._failure is not None:
                failed.set_exception(DatabaseFailure(self._failure))
                return failed
            if len(self._jobs) >= _MAX_WAITING:
                failed.set_exception(DatabaseFailure(f"{_MAX_WAITING} calls wait already"))
                return failed
            job = _Job(work)
            future = self._executor.submit(self._carry_out, job)
            self._jobs[future] = job
        future.add_done_callback(self._ended)
        return future

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do the work, and wait for its result. Raises StorageUnavailable where PostgreSQL can't be used in time."""
        try:
            return await self.attempt(work)
        except DatabaseFailure as error:
            if not self.is_gone():
                self._log().error("PostgreSQL has refused a statement", error=str(error))
            raise StorageUnavailable(
                "This server can't reach what it stores for clients now; its log says why. Try again later, or send "
                "the request without storing anything."
            ) from error

    async def attempt(self, work: Callable[[Connection], T]) -> T:
        """The same for callers that go on without PostgreSQL: raises DatabaseFailure."""
        future = self.submit(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), LIMIT_SECONDS)
        except TimeoutError:
            self._abort(LIMIT_SECONDS)
            raise DatabaseFailure(f"no answer in {LIMIT_SECONDS:.0f} s") from None

    def close(self, last: Callable[[Connection], object] | None = None) -> None:
        """Finish all submitted work, and ``last``. Blocks for some seconds at most."""
        if last is not None:
            self.submit(last)
        with self._lock:
            running = list(self._jobs)
        wait_all(running, STATEMENT_SECONDS)
        self._closed.set()
        self._abort(0.0)
        self._executor.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _carry_out(self, job: _Job[T]) -> T:
        """Do the work, on a thread."""
        if job.is_aborted:
            raise DatabaseFailure("it has waited too long")
        connection = self._take()
        with self._lock:
            job.connection = connection
        try:
            return job.work(connection)
        finally:
            with self._lock:
                job.connection = None
                is_kept = not any((connection.is_lost, job.is_aborted, self._closed.is_set()))
                if is_kept:
                    self._idle.append(connection)
            if not is_kept:
                connection.close()

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._jobs.pop(future, None)

    def _take(self) -> Connection:
        """A connection that works, or a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if not connection.is_stale:
                return connection
            connection.close()
        try:
            connection = Connection(self._address)
        except DatabaseFailure as error:
            self._lose(str(error))
            raise
        if not self._is_current:
            try:
                bring_up_to_date(connection, self._changes)
            except DatabaseFailure:
                connection.close()
                raise
            self._is_current = True
        return connection

    def _abort(self, seconds: float) -> None:
        """Free threads whose work takes at least so long: PostgreSQL doesn't answer."""
        now = time.monotonic()
        with self._lock:
            late = [job for job in self._jobs.values() if now - job.begun_at >= seconds]
            for job in late:
                job.is_aborted = True
                if job.connection is not None:
                    job.connection.abort()
        if late and not self._closed.is_set():
            self._lose("it doesn't answer")

    def _lose(self, why: str) -> None:
        """PostgreSQL can't be reached: say so once, and try again until it can."""
        with self._lock:
            if self._failure is not None or self._closed.is_set():
                return
            self._failure = why
            idle, self._idle = self._idle, []
        self._log().error("PostgreSQL can't be reached: what needs it fails until it is back", error=why)
        for connection in idle:
            connection.close()
        threading.Thread(target=self._find_again, name=f"{self._name}-retry", daemon=True).start()

    def _find_again(self) -> None:
        while not self._closed.wait(_RETRY_SECONDS):
            try:
                connection = Connection(self._address)
            except DatabaseFailure:
                continue
            with self._lock:
                self._failure = None
                self._idle.append(connection)
            self._log().info("PostgreSQL is back")
            return

    def _log(self) -> structlog.stdlib.BoundLogger:
        log: structlog.stdlib.BoundLogger = structlog.get_logger().bind(database=self._name)
        return log


class _Job(Generic[T]):
    """One piece of work, and when it was submitted."""

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.begun_at = time.monotonic()
        self.connection: Connection | None = None  #: while it is carried out
        self.is_aborted = False
