"""Chat completions that were stored with ``store: true``, with their messages, in SQLite.

One thread of its own does all of it, in order, so that the event loop never waits for the disk and a completion that
was put is there for the next request. The file is opened when it is needed first.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from tailrace.errors import InvalidRequest, NotFound
from tailrace.folders import state_folder
from tailrace.server.sqlite import bytes_used, open_database

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE completions (
    id TEXT PRIMARY KEY,
    used REAL NOT NULL,  -- when it was last made, looked up or changed
    body BLOB NOT NULL,
    messages BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX completions_used ON completions (used);
"""
#: Completions that are dropped at a time when there is no more room.
_DROPPED = 16

Order = Literal["asc", "desc"]


class Page(msgspec.Struct, frozen=True):
    """Some of a completion's messages, and whether there are more."""

    messages: list[dict[str, Any]]
    more: bool


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/completions.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "completions.sqlite"


class CompletionStore:
    """The store, for the event loop. ``megabytes`` and ``days`` bound what it keeps; the least recently used goes
    first.
    """

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        self._database = _Database(file, max_bytes=megabytes * 1_000_000, max_seconds=days * 86_400)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="completions")

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Keep a completion. Returns at once. A failure is logged: the client has its completion by then."""
        self._thread.submit(self._database.put, body, messages).add_done_callback(_log_failure)

    async def get(self, identity: str) -> dict[str, Any]:
        """The completion. Raises NotFound."""
        return await self._run(lambda: self._database.get(identity))

    async def update(self, identity: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        """The completion with other metadata. Raises NotFound."""
        return await self._run(lambda: self._database.update(identity, metadata))

    async def delete(self, identity: str) -> None:
        """Forget a completion. Raises NotFound."""
        await self._run(lambda: self._database.delete(identity))

    async def messages(self, identity: str, *, after: str | None, limit: int, order: Order) -> Page:
        """A page of the completion's messages. Raises NotFound, and InvalidRequest for an unknown ``after``."""
        return await self._run(lambda: self._database.page(identity, after, limit, order))

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.submit(self._database.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Database:
    """The store, for its thread."""

    def __init__(self, file: Path, *, max_bytes: int, max_seconds: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._opened: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_database(self._file, (_SCHEMA,))
        return self._opened

    def put(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        row = (body["id"], time.time(), msgspec.json.encode(body), msgspec.json.encode(messages))
        with self._connection as connection:
            connection.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?)", row)
        self._make_room()

    def get(self, identity: str) -> dict[str, Any]:
        with self._connection as connection:
            row = connection.execute("SELECT body FROM completions WHERE id = ?", (identity,)).fetchone()
            if row is None:
                raise _not_found(identity)
            connection.execute("UPDATE completions SET used = ? WHERE id = ?", (time.time(), identity))
        body: dict[str, Any] = msgspec.json.decode(row[0])
        return body

    def update(self, identity: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        body = {**self.get(identity), "metadata": metadata or {}}
        with self._connection as connection:
            told = msgspec.json.encode(body)
            connection.execute("UPDATE completions SET body = ? WHERE id = ?", (told, identity))
        return body

    def delete(self, identity: str) -> None:
        with self._connection as connection:
            if not connection.execute("DELETE FROM completions WHERE id = ?", (identity,)).rowcount:
                raise _not_found(identity)

    def page(self, identity: str, after: str | None, limit: int, order: Order) -> Page:
        row = self._connection.execute("SELECT messages FROM completions WHERE id = ?", (identity,)).fetchone()
        if row is None:
            raise _not_found(identity)
        messages: list[dict[str, Any]] = msgspec.json.decode(row[0])
        if order == "desc":
            messages.reverse()
        if after is not None:
            ids = [message["id"] for message in messages]
            if after not in ids:
                raise InvalidRequest("'after': the completion has no such message.", param="after")
            messages = messages[ids.index(after) + 1 :]
        return Page(messages[:limit], len(messages) > limit)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _make_room(self) -> None:
        with self._connection as connection:
            connection.execute("DELETE FROM completions WHERE used < ?", (time.time() - self._max_seconds,))
            oldest = "DELETE FROM completions WHERE id IN (SELECT id FROM completions ORDER BY used LIMIT ?)"
            while bytes_used(connection) > self._max_bytes:
                if not connection.execute(oldest, (_DROPPED,)).rowcount:
                    return


def _log_failure(done: Future[None]) -> None:
    if (error := done.exception()) is not None:
        structlog.get_logger().error("a chat completion couldn't be kept", error=str(error))


def _not_found(identity: str) -> NotFound:
    shown = identity if len(identity) <= 200 else f"{identity[:200]}…"
    return NotFound(f"The chat completion '{shown}' is not kept here.")
