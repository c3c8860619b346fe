"""The store of chat completions in PostgreSQL: several servers answer from it. See ``CompletionStore``."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import msgspec
import structlog

from tailrace.server.dialects.openai.completion_store import Order, Page, not_found, page
from tailrace.server.postgres.connection import Connection
from tailrace.server.postgres.database import LIMIT_SECONDS, Database

_CHANGES = (
    """
CREATE TABLE tailrace_completions (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    used TIMESTAMPTZ NOT NULL,  -- when it was last made, looked up or changed
    bytes BIGINT NOT NULL,
    body BYTEA NOT NULL,
    messages BYTEA NOT NULL
);
""",
)
#: The part of the bound that a process may write before it looks whether the bound is kept.
_LOOK_SHARE = 1 / 64
_INSERT = """
INSERT INTO tailrace_completions VALUES (%s, %s, now(), %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, used = excluded.used, bytes = excluded.bytes,
    body = excluded.body, messages = excluded.messages
"""
_GET = "UPDATE tailrace_completions SET used = now() WHERE id = %s AND owner = %s RETURNING body"
_EXPIRE = "DELETE FROM tailrace_completions WHERE used < now() - %s * interval '1 day'"
#: All but the most recently used ones that are within the bound together.
_EVICT = """
DELETE FROM tailrace_completions WHERE id IN (
    SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY used DESC, id) AS total FROM tailrace_completions) AS ordered
    WHERE total > %s)
"""


class PostgresCompletions:
    """See ``CompletionStore``. ``megabytes`` and ``days`` bound it."""

    is_shared = True

    def __init__(self, database: Database, *, megabytes: int, days: int) -> None:
        database.use("completions", _CHANGES)
        self._database = database
        self._max_bytes = megabytes * 1_000_000
        self._max_days = days
        self._pending: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._written = 0  #: bytes since the bound was looked at

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """See ``CompletionStore``."""

        def done(future: Future[Any]) -> None:
            self._pending.discard(future)
            if not future.cancelled() and (error := future.exception()) is not None:
                structlog.get_logger().error("stored chat completions can't be used", error=str(error))

        future = self._database.submit(lambda connection: self._insert(connection, body, messages, owner))
        self._pending.add(future)
        future.add_done_callback(done)

    async def save(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """See ``CompletionStore``."""
        await self._database.run(lambda connection: self._insert(connection, body, messages, owner))

    async def settled(self) -> None:
        """See ``CompletionStore``."""
        if self._pending:
            await asyncio.wait([asyncio.wrap_future(one) for one in list(self._pending)], timeout=LIMIT_SECONDS)

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``CompletionStore``."""
        await self.settled()
        return await self._database.run(lambda connection: _get(connection, identity, owner))

    async def update(self, identity: str, owner: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        """See ``CompletionStore``."""
        await self.settled()

        def work(connection: Connection) -> dict[str, Any]:
            body = {**_get(connection, identity, owner), "metadata": metadata or {}}
            statement = "UPDATE tailrace_completions SET body = %s WHERE id = %s"
            connection.rows(statement, (msgspec.json.encode(body), identity))
            return body

        return await self._database.run(work)

    async def delete(self, identity: str, owner: str) -> None:
        """See ``CompletionStore``."""
        await self.settled()
        statement = "DELETE FROM tailrace_completions WHERE id = %s AND owner = %s"
        if not await self._database.run(lambda connection: connection.count(statement, (identity, owner))):
            raise not_found(identity)

    async def messages(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``CompletionStore``."""
        await self.settled()
        query = "SELECT messages FROM tailrace_completions WHERE id = %s AND owner = %s"
        row = await self._database.run(lambda connection: connection.row(query, (identity, owner)))
        if row is None:
            raise not_found(identity)
        return page(msgspec.json.decode(row[0]), after, limit, order)

    def close(self) -> None:
        """See ``CompletionStore``: the database finishes what was put when it closes."""

    def _insert(self, connection: Connection, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        encoded, own = msgspec.json.encode(body), msgspec.json.encode(messages)
        size = len(encoded) + len(own)
        connection.rows(_INSERT, (body["id"], owner, size, encoded, own))
        with self._lock:
            self._written += size
            if self._written < self._max_bytes * _LOOK_SHARE:
                return
            self._written = 0
        connection.rows(_EXPIRE, (self._max_days,))
        connection.rows(_EVICT, (self._max_bytes,))


def _get(connection: Connection, identity: str, owner: str) -> dict[str, Any]:
    row = connection.row(_GET, (identity, owner))
    if row is None:
        raise not_found(identity)
    body: dict[str, Any] = msgspec.json.decode(row[0])
    return body
