"""Responses and conversations that are kept, in SQLite: what later requests build on, and what clients look up.

One thread of its own does all of it, in order, so the event loop never waits for the disk and a response that was put
is there for whoever asks next. The file is opened when it is needed first. It holds what people wrote: this user alone
may read it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from tailrace.errors import InvalidRequest, NotFound
from tailrace.folders import state_folder
from tailrace.server.dialects.responses.conversation_store import (
    ConversationStore,
    ConversationTables,
    delete_conversation,
)
from tailrace.server.dialects.responses.items import Item, shown
from tailrace.server.dialects.responses.page import Order, Page, page
from tailrace.server.dialects.responses.process_lock import Lease
from tailrace.server.sqlite import bytes_used, open_database

T = TypeVar("T")

#: What makes each version of the file out of the one before.
_CHANGES = (
    """
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    used REAL NOT NULL,  -- when it was last made, looked up or built on
    owner INTEGER NOT NULL,  -- lease of the process that made it: one in progress ends with that
    body BLOB NOT NULL  -- without its output
) WITHOUT ROWID;
CREATE INDEX responses_used ON responses (used);
CREATE TABLE items (
    response TEXT NOT NULL,
    output INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (response, output, position)
) WITHOUT ROWID;
CREATE INDEX items_id ON items (id) WHERE output;
""",
    """
CREATE TABLE events (
    response TEXT PRIMARY KEY,
    body BLOB NOT NULL  -- of one that was made in the background, as it was streamed
) WITHOUT ROWID;
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    created INTEGER NOT NULL,
    used REAL NOT NULL,
    metadata BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX conversations_used ON conversations (used);
CREATE TABLE conversation_items (
    conversation TEXT NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (conversation, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX conversation_items_id ON conversation_items (conversation, id);
""",
)
#: A conversation of more responses than these isn't followed to its beginning.
_LONGEST_CHAIN = 10_000
#: Responses that are dropped at a time when there is no more room.
_DROPPED = 16


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/responses.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "responses.sqlite"


class ResponseStore:
    """The store, for the event loop. ``megabytes`` and ``days`` bound what it keeps; the least recently used goes
    first, so that a conversation that goes on stays whole.
    """

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        self._database = _Database(file, most_bytes=megabytes * 1_000_000, most_seconds=days * 86_400)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")
        self._log = structlog.get_logger()
        self.conversations = ConversationStore(self._run, self._append, lambda: self._database.conversations)

    def put(self, body: dict[str, Any], inputs: list[Item]) -> None:
        """Keep a response, in place of an older state of it. Returns at once; whoever asks later sees it. A failure is
        logged: the client has its response by then.
        """
        self._thread.submit(self._database.put, body, inputs).add_done_callback(self._put)

    async def get(self, identity: str) -> dict[str, Any]:
        """The response object. Raises NotFound."""
        return await self._run(lambda: self._database.get(identity))

    async def delete(self, identity: str) -> None:
        """Forget a response. Raises NotFound."""
        await self._run(lambda: self._database.delete(identity))

    async def inputs(self, identity: str, *, after: str | None, limit: int, order: Order) -> Page:
        """A page of the response's own input items. Raises NotFound, and InvalidRequest for an unknown ``after``."""
        return await self._run(lambda: self._database.inputs(identity, after, limit, order))

    async def conversation(self, identity: str) -> list[Item]:
        """Input and output of the response and of all that it builds on, in order. Raises InvalidRequest."""
        return await self._run(lambda: self._database.conversation(identity))

    async def outputs(self, identities: list[str]) -> dict[str, Item]:
        """Those of these items that responses have put out."""
        return await self._run(lambda: self._database.outputs(identities))

    def put_events(self, identity: str, events: bytes) -> None:
        """Keep the events of a response that was put before. Returns at once, as ``put`` does."""
        self._thread.submit(self._database.put_events, identity, events).add_done_callback(self._put)

    async def events(self, identity: str) -> bytes | None:
        """The response's events, where they were kept."""
        return await self._run(lambda: self._database.events(identity))

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.submit(self._database.close)
        self._thread.shutdown()

    def _append(self, work: Callable[[], object]) -> None:
        self._thread.submit(work).add_done_callback(self._put)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _put(self, done: Future[Any]) -> None:
        if (error := done.exception()) is not None:
            self._log.error("a response couldn't be kept", error=str(error))


class _Database:
    """The store, for its thread."""

    def __init__(self, file: Path, *, most_bytes: int, most_seconds: int) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._opened: sqlite3.Connection | None = None
        self._lease: Lease | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_database(self._file, _CHANGES)
        return self._opened

    @property
    def _owner(self) -> Lease:
        if self._lease is None:
            self._lease = Lease(self._file.with_name(f"{self._file.name}-lease"))
        return self._lease

    def put(self, body: dict[str, Any], inputs: list[Item]) -> None:
        identity, output = body["id"], body["output"]
        kept = {name: value for name, value in body.items() if name != "output"}
        rows = [
            (identity, put_out, position, item["id"], msgspec.json.encode(item))
            for put_out, items in ((0, inputs), (1, output))
            for position, item in enumerate(items)
        ]
        with self._connection as connection:
            self._delete(identity)
            connection.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?)",
                (identity, body["previous_response_id"], time.time(), self._owner.number, msgspec.json.encode(kept)),
            )
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
        self._make_room()

    def put_events(self, identity: str, events: bytes) -> None:
        with self._connection as connection:
            connection.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (identity, events))
        self._make_room()

    def events(self, identity: str) -> bytes | None:
        row = self._connection.execute("SELECT body FROM events WHERE response = ?", (identity,)).fetchone()
        return None if row is None else bytes(row[0])

    @property
    def conversations(self) -> ConversationTables:
        """The conversations, within the same bounds."""
        return ConversationTables(self._connection, self._make_room)

    def get(self, identity: str) -> dict[str, Any]:
        with self._connection as connection:
            row = connection.execute("SELECT body, owner FROM responses WHERE id = ?", (identity,)).fetchone()
            if row is None:
                raise _not_found(identity)
            self._use([identity])
        body: dict[str, Any] = msgspec.json.decode(row[0])
        if body["status"] == "in_progress" and not self._owner.held(row[1]):
            body["status"] = "failed"
            body["error"] = {"code": "server_error", "message": "The server was stopped before the response was done."}
        # Where it stands in what the API returns.
        return {**body, "output": self._items(identity, output=True)}

    def delete(self, identity: str) -> None:
        with self._connection:
            if not self._delete(identity):
                raise _not_found(identity)

    def inputs(self, identity: str, after: str | None, limit: int, order: Order) -> Page:
        self.get(identity)
        items = self._items(identity, output=False)
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    def conversation(self, identity: str) -> list[Item]:
        chain: list[str] = []
        following: str | None = identity
        with self._connection as connection:
            while following is not None:
                row = connection.execute("SELECT previous, body FROM responses WHERE id = ?", (following,)).fetchone()
                if row is None or len(chain) == _LONGEST_CHAIN:
                    what = "is not kept here" if not chain else "builds on one that is not kept here any more"
                    raise InvalidRequest(
                        f"The previous response {shown(identity)} {what}.",
                        param="previous_response_id",
                        code="previous_response_not_found",
                    )
                if not chain and msgspec.json.decode(row[1])["status"] == "in_progress":
                    raise InvalidRequest(
                        f"The previous response {shown(identity)} isn't done yet.", param="previous_response_id"
                    )
                chain.append(following)
                following = row[0]
            self._use(chain)
        return [
            item
            for one in reversed(chain)
            for item in (*self._items(one, output=False), *self._items(one, output=True))
        ]

    def outputs(self, identities: list[str]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for identity in identities:
            row = self._connection.execute("SELECT body FROM items WHERE output AND id = ?", (identity,)).fetchone()
            if row is not None:
                found[identity] = msgspec.json.decode(row[0])
        return found

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def _items(self, identity: str, *, output: bool) -> list[Item]:
        rows = self._connection.execute(
            "SELECT body FROM items WHERE response = ? AND output = ? ORDER BY position", (identity, output)
        )
        return [msgspec.json.decode(body) for (body,) in rows]

    def _use(self, identities: list[str]) -> None:
        now = time.time()
        self._connection.executemany("UPDATE responses SET used = ? WHERE id = ?", [(now, one) for one in identities])

    def _delete(self, identity: str) -> bool:
        self._connection.execute("DELETE FROM items WHERE response = ?", (identity,))
        self._connection.execute("DELETE FROM events WHERE response = ?", (identity,))
        return self._connection.execute("DELETE FROM responses WHERE id = ?", (identity,)).rowcount > 0

    def _make_room(self) -> None:
        with self._connection as connection:
            kept = "SELECT id, used FROM responses UNION ALL SELECT id, used FROM conversations"
            old = f"SELECT id FROM ({kept}) WHERE used < ?"
            for (identity,) in connection.execute(old, (time.time() - self._most_seconds,)).fetchall():
                self._drop(identity)
            while self._bytes() > self._most_bytes:
                query = f"SELECT id FROM ({kept}) ORDER BY used LIMIT ?"
                oldest = connection.execute(query, (_DROPPED,)).fetchall()
                if not oldest:
                    return
                for (identity,) in oldest:
                    self._drop(identity)
                    if self._bytes() <= self._most_bytes:
                        return

    def _drop(self, identity: str) -> None:
        """Forget a response or a conversation."""
        if not self._delete(identity):
            delete_conversation(self._connection, identity)

    def _bytes(self) -> int:
        return bytes_used(self._connection)


def _not_found(identity: str) -> NotFound:
    return NotFound(f"The response {shown(identity)} is not kept here.")
