"""A server's side of keys in PostgreSQL: it follows their changes, and writes down what its requests use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from tailrace.server.keys import postgres_keys
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.keys.postgres_keys import PARTS, KeyUse
from tailrace.server.keys.shared_allowance import SharedAllowance
from tailrace.server.postgres import process_lease
from tailrace.server.postgres.connection import Connection, DatabaseFailure
from tailrace.server.postgres.database import Database
from tailrace.server.postgres.process_lease import ProcessLease

#: Seconds between two looks at the keys, and between two writings of running replies' tokens.
_LOOK_SECONDS = 1.0
#: The same for keys without limits: no request waits for their numbers.
_UNLIMITED_SECONDS = 5.0
_CONNECTIONS = 2


class SharedKeys:
    """See the module. For the event loop. ``on_records`` is called with all keys at first and after each change."""

    def __init__(self, address: str, on_records: Callable[[list[KeyRecord]], None]) -> None:
        self._database = Database(address, name="keys", connections=_CONNECTIONS)
        for part, changes in PARTS.items():
            self._database.use(part, changes)
        self._on_records = on_records
        self._lease = ProcessLease()
        self._number: int | None = None  #: of the last change that is known
        self._unwritten: dict[str, SharedAllowance] = {}
        self._soon: dict[str, SharedAllowance] = {}  #: those of them that wait for nothing
        self._unlimited_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the keys have been read."""
        return self._number is not None

    def start(self) -> None:
        """Begin to follow the keys, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    def allowance(self, record: KeyRecord, clock: Callable[[], float], now: Callable[[], datetime]) -> SharedAllowance:
        """The allowance of a key."""
        return SharedAllowance(record, self._ask, self._changed, clock=clock, now=now)

    def close(self) -> None:
        """Write down the rest, and close the connections."""
        for task in (self._task, self._writing):
            if task is not None:
                task.cancel()
        for allowance in self._unwritten.values():
            if allowance.record.has_limits:
                self._database.submit(self._question(allowance.record, allowance.take_unwritten(), 0, None))
        self._write_unlimited()
        self._database.close(lambda connection: connection.rows(process_lease.END, (self._lease.number,)))

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                await self._write_down({key: one for key, one in self._unwritten.items() if one.record.has_limits})
                if time.monotonic() - self._unlimited_at >= _UNLIMITED_SECONDS:
                    self._write_unlimited()
            except DatabaseFailure:
                pass  # The pool has logged it. Everything is tried again the next time.
            except Exception:
                structlog.get_logger().exception("the keys can't be followed; they stay as they were")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        """Renew the lease; read the keys again if they have changed."""
        number = await self._database.attempt(partial(postgres_keys.look, process=self._lease.number))
        self._lease.renewed()
        if number != self._number:
            records = await self._database.attempt(postgres_keys.read)
            self._number = number
            self._on_records(records)
            structlog.get_logger().info("the API keys were read", keys=len(records))

    async def _ask(self, record: KeyRecord, used: int, running: int, wanted: int | None) -> KeyUse:
        return await self._database.attempt(self._question(record, used, running, wanted))

    def _question(
        self, record: KeyRecord, used: int, running: int, wanted: int | None
    ) -> Callable[[Connection], KeyUse]:
        process = self._lease.number
        return lambda connection: postgres_keys.use(connection, process, record, used, running, wanted)

    def _changed(self, allowance: SharedAllowance, soon: bool) -> None:
        """The use of a key has changed."""
        self._unwritten[allowance.record.id] = allowance
        if soon:
            self._soon[allowance.record.id] = allowance
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def _write_soon(self) -> None:
        try:
            while self._soon:
                await self._write_down(self._soon)
        except DatabaseFailure:
            self._soon.clear()  # The loop tries again.
        finally:
            self._writing = None

    async def _write_down(self, allowances: dict[str, SharedAllowance]) -> None:
        """Write down what keys with limits have used."""
        for identity, allowance in list(allowances.items()):
            allowances.pop(identity, None)
            if allowance.record.has_limits:
                self._unwritten.pop(identity, None)
                try:
                    await allowance.write_down()
                except BaseException:
                    self._unwritten[identity] = allowance
                    raise

    def _write_unlimited(self) -> None:
        """Start to write down what keys without limits have used."""
        self._unlimited_at = time.monotonic()
        used: dict[str, int] = {}
        for identity, allowance in list(self._unwritten.items()):
            if not allowance.record.has_limits:
                del self._unwritten[identity]
                used[identity] = allowance.take_unwritten()
        if used:
            self._database.submit(partial(postgres_keys.add_use, used=used))
