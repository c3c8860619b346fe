"""The store of responses and conversations, in SQLite.

All work is done by a ``StoreThread``, so a stored response is there for the next request. The file is opened at its
first use. It has people's texts, so only this user may read it.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tailrace.errors import InvalidRequest, NotFound
from tailrace.folders import state_folder
from tailrace.server.dialects.responses.conversation_store import (
    ConversationStore,
    ConversationTables,
    delete_conversation,
)
from tailrace.server.dialects.responses.items import Item, quoted
from tailrace.server.dialects.responses.page import Order, Page, page
from tailrace.server.dialects.responses.process_lock import ProcessLock
from tailrace.server.sqlite import bytes_used, open_database, set_aside
from tailrace.server.store_thread import StoreThread

#: The migrations: each makes a version of the file from the one before.
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
    # The id of the API key that stored it; empty for the setting's key and for servers without keys.
    """
ALTER TABLE responses ADD COLUMN key TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN key TEXT NOT NULL DEFAULT ''
""",
    # Whose bytes they are: the caller that takes most gives way first.
    """
ALTER TABLE responses ADD COLUMN caller TEXT NOT NULL DEFAULT '';
ALTER TABLE responses ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN caller TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE responses SET bytes = length(body)
    + (SELECT coalesce(sum(length(body)), 0) FROM items WHERE response = responses.id);
UPDATE conversations SET bytes = length(metadata)
    + (SELECT coalesce(sum(length(body)), 0) FROM conversation_items WHERE conversation = conversations.id)
""",
)
#: A conversation of more responses than these isn't followed to its beginning.
_MAX_CHAIN = 10_000
#: Responses that are evicted at a time.
_EVICTION_BATCH = 16
#: Responses that are remembered because their last state couldn't be stored.
_MAX_LOST = 1000
#: The part of the store that one response or conversation may take.
_MAX_SHARE = 1 / 8
#: Whatever is stored, with what eviction decides by.
_STORED = "SELECT id, used, caller, bytes FROM responses UNION ALL SELECT id, used, caller, bytes FROM conversations"


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/responses.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "responses.sqlite"


class ResponseStore:
    """The store, for the event loop. ``megabytes`` and ``days`` bound it. The caller that takes most gives way first:
    the least recently used of its responses is evicted, so an active conversation stays whole. ``owner`` is the id of
    the caller's key: objects of another key aren't found.

    What waits for the disk raises StorageUnavailable where the file can't be used.
    """

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        self._database = _Database(file, max_bytes=megabytes * 1_000_000, max_seconds=days * 86_400)
        self._thread = StoreThread("responses", "stored responses can't be used", self._database.replace)
        self.conversations = ConversationStore(self._thread, lambda: self._database.conversations)

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """Store a response, in place of its older state. Returns at once; later reads see it. A failure is logged,
        because the client has its response already, and reads see a failed response from then on.
        """
        lost = partial(self._database.mark_lost, body["id"])
        self._thread.submit(self._database.put, body, inputs, owner, caller, failed=lost)

    async def save(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """Store a response as ``put`` does, and return when it is stored. ``caller`` is the sender's identity. Raises
        InvalidRequest for one that is too large.
        """
        await self._thread.run(lambda: self._database.put(body, inputs, owner, caller))

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """The response object. Raises NotFound."""
        return await self._thread.run(lambda: self._database.get(identity, owner))

    async def delete(self, identity: str, owner: str) -> None:
        """Forget a response. Raises NotFound."""
        await self._thread.run(lambda: self._database.delete(identity, owner))

    async def inputs(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """A page of the response's own input items. Raises NotFound, and InvalidRequest for an unknown ``after``."""
        return await self._thread.run(lambda: self._database.inputs(identity, owner, after, limit, order))

    async def conversation(self, identity: str, owner: str) -> list[Item]:
        """Input and output of the response and of all that it builds on, in order. Raises InvalidRequest."""
        return await self._thread.run(lambda: self._database.conversation(identity, owner))

    async def outputs(self, identities: list[str], owner: str) -> dict[str, Item]:
        """Those of these items that responses of this owner have put out."""
        return await self._thread.run(lambda: self._database.outputs(identities, owner))

    def put_events(self, identity: str, events: bytes) -> None:
        """Store the events of a stored response. Returns at once, as ``put`` does."""
        self._thread.submit(self._database.put_events, identity, events)

    async def events(self, identity: str) -> bytes | None:
        """The response's events, None without stored ones."""
        return await self._thread.run(lambda: self._database.events(identity))

    def close(self) -> None:
        """Finish all submitted work, and close the file."""
        self._thread.close(self._database.close)


class _Database:
    """The store, for its thread."""

    def __init__(self, file: Path, *, max_bytes: int, max_seconds: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._opened: sqlite3.Connection | None = None
        self._process_lock: ProcessLock | None = None
        self._lost: deque[str] = deque(maxlen=_MAX_LOST)  #: responses whose last state couldn't be stored

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_database(self._file, _CHANGES)
        return self._opened

    @property
    def _owner(self) -> ProcessLock:
        if self._process_lock is None:
            self._process_lock = ProcessLock(self._file.with_name(f"{self._file.name}-lease"))
        return self._process_lock

    def replace(self) -> None:
        """Begin a new file, because this one is damaged."""
        self.close()
        set_aside(self._file)

    def mark_lost(self, identity: str) -> None:
        """Remember that the response's last state isn't stored."""
        self._lost.append(identity)

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str) -> None:
        identity, output = body["id"], body["output"]
        both = {name: value for name, value in body.items() if name != "output"}
        rows = [
            (identity, put_out, position, item["id"], msgspec.json.encode(item))
            for put_out, items in ((0, inputs), (1, output))
            for position, item in enumerate(items)
        ]
        encoded = msgspec.json.encode(both)
        size = len(encoded) + sum(len(row[-1]) for row in rows)
        self._check_size(size)
        # First: it makes the folder in which the lock's file is, too.
        connection = self._connection
        previous, now, lease = body["previous_response_id"], time.time(), self._owner.number
        with connection:
            self._delete(identity)
            connection.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (identity, previous, now, lease, encoded, owner, caller, size),
            )
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
        self._evict()

    def put_events(self, identity: str, events: bytes) -> None:
        with self._connection as connection:
            connection.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (identity, events))
            connection.execute("UPDATE responses SET bytes = bytes + ? WHERE id = ?", (len(events), identity))
        self._evict()

    def events(self, identity: str) -> bytes | None:
        row = self._connection.execute("SELECT body FROM events WHERE response = ?", (identity,)).fetchone()
        return None if row is None else bytes(row[0])

    @property
    def conversations(self) -> ConversationTables:
        """The conversations, within the same bounds."""
        return ConversationTables(self._connection, self._evict, self._check_size)

    def get(self, identity: str, owner: str) -> dict[str, Any]:
        with self._connection as connection:
            query = "SELECT body, owner FROM responses WHERE id = ? AND key = ?"
            row = connection.execute(query, (identity, owner)).fetchone()
            if row is None:
                raise _not_found(identity)
            self._use([identity])
        body: dict[str, Any] = msgspec.json.decode(row[0])
        if body["status"] == "in_progress":
            if identity in self._lost:
                body["status"], body["error"] = "failed", _error("The response's end could not be stored.")
            elif not self._owner.held(row[1]):
                body["status"] = "failed"
                body["error"] = _error("The server was stopped before the response was done.")
        # The API has the output at the end.
        return {**body, "output": self._items(identity, output=True)}

    def delete(self, identity: str, owner: str) -> None:
        self.get(identity, owner)
        with self._connection:
            if not self._delete(identity):
                raise _not_found(identity)

    def inputs(self, identity: str, owner: str, after: str | None, limit: int, order: Order) -> Page:
        self.get(identity, owner)
        items = self._items(identity, output=False)
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    def conversation(self, identity: str, owner: str) -> list[Item]:
        chain: list[str] = []
        following: str | None = identity
        with self._connection as connection:
            while following is not None:
                query = "SELECT previous, body FROM responses WHERE id = ? AND key = ?"
                row = connection.execute(query, (following, owner)).fetchone()
                if row is None or len(chain) == _MAX_CHAIN:
                    problem = "is not kept here" if not chain else "builds on one that is not kept here any more"
                    raise InvalidRequest(
                        f"The previous response {quoted(identity)} {problem}.",
                        param="previous_response_id",
                        code="previous_response_not_found",
                    )
                if not chain and msgspec.json.decode(row[1])["status"] == "in_progress":
                    raise InvalidRequest(
                        f"The previous response {quoted(identity)} isn't done yet.", param="previous_response_id"
                    )
                chain.append(following)
                following = row[0]
            self._use(chain)
        return [
            item
            for one in reversed(chain)
            for item in (*self._items(one, output=False), *self._items(one, output=True))
        ]

    def outputs(self, identities: list[str], owner: str) -> dict[str, Item]:
        found: dict[str, Item] = {}
        query = (
            "SELECT items.body FROM items JOIN responses ON responses.id = items.response "
            "WHERE items.output AND items.id = ? AND responses.key = ?"
        )
        for identity in identities:
            row = self._connection.execute(query, (identity, owner)).fetchone()
            if row is not None:
                found[identity] = msgspec.json.decode(row[0])
        return found

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._process_lock is not None:
            self._process_lock.close()
            self._process_lock = None

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

    def _evict(self) -> None:
        with self._connection as connection:
            old = f"SELECT id FROM ({_STORED}) WHERE used < ?"
            largest = f"SELECT caller FROM ({_STORED}) GROUP BY caller ORDER BY sum(bytes) DESC LIMIT 1"
            for (identity,) in connection.execute(old, (time.time() - self._max_seconds,)).fetchall():
                self._drop(identity)
            while self._bytes() > self._max_bytes:
                query = f"SELECT id FROM ({_STORED}) WHERE caller = ({largest}) ORDER BY used LIMIT ?"
                oldest = connection.execute(query, (_EVICTION_BATCH,)).fetchall()
                if not oldest:
                    return
                for (identity,) in oldest:
                    self._drop(identity)
                    if self._bytes() <= self._max_bytes:
                        return

    def _drop(self, identity: str) -> None:
        """Forget a response or a conversation."""
        if not self._delete(identity):
            delete_conversation(self._connection, identity)

    def _check_size(self, size: int) -> None:
        """Raise InvalidRequest where ``size`` bytes would push out too much of what others have stored."""
        limit = int(self._max_bytes * _MAX_SHARE)
        if size > limit:
            raise InvalidRequest(
                f"{size} bytes are more than the {limit} that one stored object may take here. Send 'store': false, or "
                "raise the setting responses_mb.",
                param="store",
                code="too_large_to_store",
            )

    def _bytes(self) -> int:
        return bytes_used(self._connection)


def _error(message: str) -> dict[str, str]:
    return {"code": "server_error", "message": message}


def _not_found(identity: str) -> NotFound:
    return NotFound(f"The response {quoted(identity)} is not kept here.")
