"""The store of chat completions in SQLite: for one machine. See ``CompletionStore``.

One thread of its own does all of it, in order, so that the event loop never waits for the disk and a completion that
was put is there for the next request. The file is opened when it is needed first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from tailrace.folders import state_folder
from tailrace.server.dialects.openai.completion_store import Order, Page, not_found, page
from tailrace.server.sqlite import BoundedDatabase
from tailrace.server.store_thread import StoreThread

_SCHEMA = """
CREATE TABLE completions (
    id TEXT PRIMARY KEY,
    used REAL NOT NULL,  -- when it was last made, looked up or changed
    body BLOB NOT NULL,
    messages BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX completions_used ON completions (used);
"""
#: The id of the API key that stored it; empty for the setting's key and for servers without keys.
_WITH_OWNER = "ALTER TABLE completions ADD COLUMN owner TEXT NOT NULL DEFAULT ''"
#: Completions that are evicted at a time.
_EVICTION_BATCH = 16


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/completions.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "completions.sqlite"


class SqliteCompletions:
    """See ``CompletionStore``. ``megabytes`` and ``days`` bound it."""

    is_shared = False

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        self._database = _Database(file, (_SCHEMA, _WITH_OWNER), megabytes=megabytes, days=days)
        self._thread = StoreThread("completions", "stored chat completions can't be used", self._database.replace)

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """See ``CompletionStore``."""
        self._thread.submit(self._database.put, body, messages, owner)

    async def save(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        """See ``CompletionStore``."""
        await self._thread.run(lambda: self._database.put(body, messages, owner))

    async def settled(self) -> None:
        """See ``CompletionStore``."""
        await self._thread.run(lambda: None)

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``CompletionStore``."""
        return await self._thread.run(lambda: self._database.get(identity, owner))

    async def update(self, identity: str, owner: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        """See ``CompletionStore``."""
        return await self._thread.run(lambda: self._database.update(identity, owner, metadata))

    async def delete(self, identity: str, owner: str) -> None:
        """See ``CompletionStore``."""
        await self._thread.run(lambda: self._database.delete(identity, owner))

    async def messages(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``CompletionStore``."""
        return await self._thread.run(lambda: self._database.page(identity, owner, after, limit, order))

    def close(self) -> None:
        """See ``CompletionStore``."""
        self._thread.close(self._database.close)


class _Database(BoundedDatabase):
    """The store, for its thread."""

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]], owner: str) -> None:
        row = (body["id"], time.time(), msgspec.json.encode(body), msgspec.json.encode(messages), owner)
        with self.connection as connection:
            connection.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?)", row)
        self._evict()

    def get(self, identity: str, owner: str) -> dict[str, Any]:
        with self.connection as connection:
            query = "SELECT body FROM completions WHERE id = ? AND owner = ?"
            row = connection.execute(query, (identity, owner)).fetchone()
            if row is None:
                raise not_found(identity)
            connection.execute("UPDATE completions SET used = ? WHERE id = ?", (time.time(), identity))
        body: dict[str, Any] = msgspec.json.decode(row[0])
        return body

    def update(self, identity: str, owner: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        body = {**self.get(identity, owner), "metadata": metadata or {}}
        with self.connection as connection:
            encoded = msgspec.json.encode(body)
            connection.execute("UPDATE completions SET body = ? WHERE id = ?", (encoded, identity))
        return body

    def delete(self, identity: str, owner: str) -> None:
        with self.connection as connection:
            query = "DELETE FROM completions WHERE id = ? AND owner = ?"
            if not connection.execute(query, (identity, owner)).rowcount:
                raise not_found(identity)

    def page(self, identity: str, owner: str, after: str | None, limit: int, order: Order) -> Page:
        query = "SELECT messages FROM completions WHERE id = ? AND owner = ?"
        row = self.connection.execute(query, (identity, owner)).fetchone()
        if row is None:
            raise not_found(identity)
        return page(msgspec.json.decode(row[0]), after, limit, order)

    def _evict(self) -> None:
        with self.connection as connection:
            connection.execute("DELETE FROM completions WHERE used < ?", (self.oldest_time,))
            oldest = "DELETE FROM completions WHERE id IN (SELECT id FROM completions ORDER BY used LIMIT ?)"
            while self.is_full():
                if not connection.execute(oldest, (_EVICTION_BATCH,)).rowcount:
                    return
