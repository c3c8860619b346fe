"""The store of responses and conversations, in SQLite: for one machine.

All work is done by a ``StoreThread``, so a stored response is there for the next request. The file is opened at its
first use. It has people's texts, so only this user may read it.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tailrace.folders import state_folder
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.event_recording import Recording, compress_events, decompress_events
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.page import Order, Page, page
from tailrace.server.dialects.responses.process_lock import ProcessLock
from tailrace.server.dialects.responses.sqlite_conversations import (
    ConversationTables,
    SqliteConversations,
    delete_conversation,
)
from tailrace.server.dialects.responses.store import (
    LOST,
    MAX_CHAIN,
    STOPPED,
    broken_chain,
    check_size,
    failed,
    not_done,
    not_found,
    without_output,
)
from tailrace.server.sqlite import BoundedDatabase
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
#: Responses that are evicted at a time.
_EVICTION_BATCH = 16
#: Responses that are remembered because their last state couldn't be stored.
_MAX_LOST = 1000
#: Whatever is stored, with what eviction decides by.
_STORED = "SELECT id, used, caller, bytes FROM responses UNION ALL SELECT id, used, caller, bytes FROM conversations"


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/responses.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "responses.sqlite"


class SqliteResponseStore:
    """See ``ResponseStore``. ``megabytes`` and ``days`` bound it. The caller that takes most gives way first: the least
    recently used of its responses is evicted, so an active conversation stays whole.
    """

    is_shared = False

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        self._database = _Database(file, megabytes=megabytes, days=days)
        self._thread = StoreThread("responses", "stored responses can't be used", self._database.replace)
        self.conversations: ConversationStore = SqliteConversations(self._thread, lambda: self._database.conversations)

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """See ``ResponseStore``."""
        lost = partial(self._database.mark_lost, body["id"])
        self._thread.submit(self._database.put, body, inputs, owner, caller, failed=lost)

    def put_end(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str, recording: Recording) -> None:
        """See ``ResponseStore``."""
        self.put(body, inputs, owner, caller)
        self._thread.submit(lambda: self._database.put_events(body["id"], compress_events(recording.pieces)))

    async def save(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """See ``ResponseStore``."""
        await self._thread.run(lambda: self._database.put(body, inputs, owner, caller))

    async def settled(self) -> None:
        """See ``ResponseStore``."""
        await self._thread.run(lambda: None)

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``ResponseStore``."""
        return await self._thread.run(lambda: self._database.get(identity, owner))

    async def delete(self, identity: str, owner: str) -> None:
        """See ``ResponseStore``."""
        await self._thread.run(lambda: self._database.delete(identity, owner))

    async def cancel(self, identity: str, owner: str) -> None:
        """See ``ResponseStore``: other servers' responses end with them."""

    async def inputs(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``ResponseStore``."""
        return await self._thread.run(lambda: self._database.inputs(identity, owner, after, limit, order))

    async def conversation(self, identity: str, owner: str) -> list[Item]:
        """See ``ResponseStore``."""
        return await self._thread.run(lambda: self._database.conversation(identity, owner))

    async def outputs(self, identities: list[str], owner: str) -> dict[str, Item]:
        """See ``ResponseStore``."""
        return await self._thread.run(lambda: self._database.outputs(identities, owner))

    async def recording(self, response: dict[str, Any], begin: int) -> Recording | None:
        """See ``ResponseStore``."""
        events = await self._thread.run(lambda: self._database.events(response["id"]))
        return None if events is None else Recording(decompress_events(events), closed=True)

    def close(self) -> None:
        """See ``ResponseStore``."""
        self._thread.close(self._database.close)


class _Database(BoundedDatabase):
    """The store, for its thread."""

    def __init__(self, file: Path, *, megabytes: int, days: int) -> None:
        super().__init__(file, _CHANGES, megabytes=megabytes, days=days)
        self._process_lock: ProcessLock | None = None
        self._lost: deque[str] = deque(maxlen=_MAX_LOST)  #: responses whose last state couldn't be stored

    @property
    def _owner(self) -> ProcessLock:
        if self._process_lock is None:
            self._process_lock = ProcessLock(self.file.with_name(f"{self.file.name}-lease"))
        return self._process_lock

    def mark_lost(self, identity: str) -> None:
        """Remember that the response's last state isn't stored."""
        self._lost.append(identity)

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str) -> None:
        identity, output = body["id"], body["output"]
        rows = [
            (identity, put_out, position, item["id"], msgspec.json.encode(item))
            for put_out, items in ((0, inputs), (1, output))
            for position, item in enumerate(items)
        ]
        encoded = msgspec.json.encode(without_output(body))
        size = len(encoded) + sum(len(row[-1]) for row in rows)
        self._check_size(size)
        # First: it makes the folder in which the lock's file is, too.
        connection = self.connection
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
        with self.connection as connection:
            connection.execute("INSERT OR REPLACE INTO events VALUES (?, ?)", (identity, events))
            connection.execute("UPDATE responses SET bytes = bytes + ? WHERE id = ?", (len(events), identity))
        self._evict()

    def events(self, identity: str) -> bytes | None:
        row = self.connection.execute("SELECT body FROM events WHERE response = ?", (identity,)).fetchone()
        return None if row is None else bytes(row[0])

    @property
    def conversations(self) -> ConversationTables:
        """The conversations, within the same bounds."""
        return ConversationTables(self.connection, self._evict, self._check_size)

    def get(self, identity: str, owner: str) -> dict[str, Any]:
        with self.connection as connection:
            query = "SELECT body, owner FROM responses WHERE id = ? AND key = ?"
            row = connection.execute(query, (identity, owner)).fetchone()
            if row is None:
                raise not_found(identity)
            self._use([identity])
        body: dict[str, Any] = msgspec.json.decode(row[0])
        if body["status"] == "in_progress":
            if identity in self._lost:
                body = failed(body, LOST)
            elif not self._owner.held(row[1]):
                body = failed(body, STOPPED)
        # The API has the output at the end.
        return {**body, "output": self._items(identity, output=True)}

    def delete(self, identity: str, owner: str) -> None:
        self.get(identity, owner)
        with self.connection:
            if not self._delete(identity):
                raise not_found(identity)

    def inputs(self, identity: str, owner: str, after: str | None, limit: int, order: Order) -> Page:
        self.get(identity, owner)
        items = self._items(identity, output=False)
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    def conversation(self, identity: str, owner: str) -> list[Item]:
        chain: list[str] = []
        following: str | None = identity
        with self.connection as connection:
            while following is not None:
                query = "SELECT previous, body FROM responses WHERE id = ? AND key = ?"
                row = connection.execute(query, (following, owner)).fetchone()
                if row is None or len(chain) == MAX_CHAIN:
                    raise broken_chain(identity, is_first=not chain)
                if not chain and msgspec.json.decode(row[1])["status"] == "in_progress":
                    raise not_done(identity)
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
            row = self.connection.execute(query, (identity, owner)).fetchone()
            if row is not None:
                found[identity] = msgspec.json.decode(row[0])
        return found

    def close(self) -> None:
        """Give up the lease, too."""
        super().close()
        if self._process_lock is not None:
            self._process_lock.close()
            self._process_lock = None

    def _items(self, identity: str, *, output: bool) -> list[Item]:
        rows = self.connection.execute(
            "SELECT body FROM items WHERE response = ? AND output = ? ORDER BY position", (identity, output)
        )
        return [msgspec.json.decode(body) for (body,) in rows]

    def _use(self, identities: list[str]) -> None:
        now = time.time()
        self.connection.executemany("UPDATE responses SET used = ? WHERE id = ?", [(now, one) for one in identities])

    def _delete(self, identity: str) -> bool:
        self.connection.execute("DELETE FROM items WHERE response = ?", (identity,))
        self.connection.execute("DELETE FROM events WHERE response = ?", (identity,))
        return self.connection.execute("DELETE FROM responses WHERE id = ?", (identity,)).rowcount > 0

    def _evict(self) -> None:
        with self.connection as connection:
            old = f"SELECT id FROM ({_STORED}) WHERE used < ?"
            largest = f"SELECT caller FROM ({_STORED}) GROUP BY caller ORDER BY sum(bytes) DESC LIMIT 1"
            for (identity,) in connection.execute(old, (self.oldest_time,)).fetchall():
                self._drop(identity)
            while self.is_full():
                query = f"SELECT id FROM ({_STORED}) WHERE caller = ({largest}) ORDER BY used LIMIT ?"
                oldest = connection.execute(query, (_EVICTION_BATCH,)).fetchall()
                if not oldest:
                    return
                for (identity,) in oldest:
                    self._drop(identity)
                    if not self.is_full():
                        return

    def _drop(self, identity: str) -> None:
        """Forget a response or a conversation."""
        if not self._delete(identity):
            delete_conversation(self.connection, identity)

    def _check_size(self, size: int) -> None:
        check_size(size, self.max_bytes)
