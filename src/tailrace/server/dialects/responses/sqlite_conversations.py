"""The store of conversations, in the responses' SQLite file. See ``ConversationStore``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import NotFound
from tailrace.server.dialects.responses.conversation_store import (
    conversation_object,
    no_conversation,
    no_item,
    with_new_ids,
)
from tailrace.server.dialects.responses.items import Item, as_listed, new_id
from tailrace.server.dialects.responses.page import Order, Page, page
from tailrace.server.store_thread import StoreThread


class SqliteConversations:
    """See ``ConversationStore``."""

    def __init__(self, thread: StoreThread, tables: Callable[[], ConversationTables]) -> None:
        """``tables`` is called on the store's thread."""
        self._thread = thread
        self._tables = tables

    async def create(self, items: list[Item], metadata: dict[str, str], owner: str, caller: str = "") -> dict[str, Any]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().create(items, metadata, owner, caller))

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().get(identity, owner))

    async def update(self, identity: str, owner: str, metadata: dict[str, str]) -> dict[str, Any]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().update(identity, owner, metadata))

    async def delete(self, identity: str, owner: str) -> None:
        """See ``ConversationStore``."""
        await self._thread.run(lambda: self._tables().delete(identity, owner))

    async def items(self, identity: str, owner: str) -> list[Item]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().items(identity, owner))

    async def page(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().page(identity, owner, after, limit, order))

    async def add(self, identity: str, owner: str, items: list[Item]) -> list[Item]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().add(identity, owner, items))

    def append(self, identity: str, owner: str, items: list[Item]) -> None:
        """See ``ConversationStore``."""

        def work() -> None:
            try:
                self._tables().add(identity, owner, items)
            except NotFound:
                return  # The conversation was deleted while the reply was generated.

        self._thread.submit(work)

    async def item(self, identity: str, owner: str, item: str) -> Item:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().item(identity, owner, item))

    async def remove(self, identity: str, owner: str, item: str) -> dict[str, Any]:
        """See ``ConversationStore``."""
        return await self._thread.run(lambda: self._tables().remove(identity, owner, item))


class ConversationTables:
    """The same for the thread that owns the connection."""

    def __init__(
        self, connection: sqlite3.Connection, evict: Callable[[], None], check_size: Callable[[int], None]
    ) -> None:
        """``evict`` is called after each write; ``check_size`` raises where a conversation has too many bytes."""
        self._connection = connection
        self._evict = evict
        self._check_size = check_size

    def create(self, items: list[Item], metadata: dict[str, str], owner: str, caller: str) -> dict[str, Any]:
        identity, now = new_id("conversation"), time.time()
        with self._connection as connection:
            encoded = msgspec.json.encode(metadata)
            row = (identity, int(now), now, encoded, owner, caller, len(encoded))
            connection.execute("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._insert(identity, items)
        self._evict()
        return self.get(identity, owner)

    def get(self, identity: str, owner: str) -> dict[str, Any]:
        query = "SELECT created, metadata FROM conversations WHERE id = ? AND key = ?"
        row = self._connection.execute(query, (identity, owner)).fetchone()
        if row is None:
            raise no_conversation(identity)
        with self._connection as connection:
            connection.execute("UPDATE conversations SET used = ? WHERE id = ?", (time.time(), identity))
        return conversation_object(identity, row[0], msgspec.json.decode(row[1]))

    def update(self, identity: str, owner: str, metadata: dict[str, str]) -> dict[str, Any]:
        with self._connection as connection:
            encoded = msgspec.json.encode(metadata)
            query = "UPDATE conversations SET metadata = ? WHERE id = ? AND key = ?"
            connection.execute(query, (encoded, identity, owner))
        return self.get(identity, owner)

    def delete(self, identity: str, owner: str) -> None:
        self.get(identity, owner)
        with self._connection as connection:
            delete_conversation(connection, identity)

    def items(self, identity: str, owner: str) -> list[Item]:
        self.get(identity, owner)
        query = "SELECT body FROM conversation_items WHERE conversation = ? ORDER BY position"
        return [msgspec.json.decode(body) for (body,) in self._connection.execute(query, (identity,))]

    def page(self, identity: str, owner: str, after: str | None, limit: int, order: Order) -> Page:
        items = self.items(identity, owner)
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    def add(self, identity: str, owner: str, items: list[Item]) -> list[Item]:
        with self._connection as connection:
            # A write first: it begins the transaction, so no other server adds between the reads and writes below.
            query = "UPDATE conversations SET used = ? WHERE id = ? AND key = ?"
            if not connection.execute(query, (time.time(), identity, owner)).rowcount:
                raise no_conversation(identity)
            added = self._insert(identity, items)
        self._evict()
        return [as_listed(item) for item in added]

    def item(self, identity: str, owner: str, item: str) -> Item:
        self.get(identity, owner)
        query = "SELECT body FROM conversation_items WHERE conversation = ? AND id = ?"
        row = self._connection.execute(query, (identity, item)).fetchone()
        if row is None:
            raise no_item(identity, item)
        return as_listed(msgspec.json.decode(row[0]))

    def remove(self, identity: str, owner: str, item: str) -> dict[str, Any]:
        found = self.get(identity, owner)
        with self._connection as connection:
            query = "DELETE FROM conversation_items WHERE conversation = ? AND id = ?"
            if not connection.execute(query, (identity, item)).rowcount:
                raise no_item(identity, item)
        return found

    def _insert(self, identity: str, items: list[Item]) -> list[Item]:
        """Store them, within the caller's transaction. The items as they are stored."""
        connection = self._connection
        query = "SELECT coalesce(max(position), -1) + 1 FROM conversation_items WHERE conversation = ?"
        begin = connection.execute(query, (identity,)).fetchone()[0]
        known = {
            one
            for (one,) in connection.execute("SELECT id FROM conversation_items WHERE conversation = ?", (identity,))
        }
        added = with_new_ids(items, known)
        size = connection.execute("SELECT bytes FROM conversations WHERE id = ?", (identity,)).fetchone()[0]
        for position, item in enumerate(added, begin):
            encoded = msgspec.json.encode(item)
            size += len(encoded)
            connection.execute(
                "INSERT INTO conversation_items VALUES (?, ?, ?, ?)", (identity, position, item["id"], encoded)
            )
        self._check_size(size)
        connection.execute("UPDATE conversations SET bytes = ? WHERE id = ?", (size, identity))
        return added


def delete_conversation(connection: sqlite3.Connection, identity: str) -> None:
    """Delete a conversation, if it exists, within the caller's transaction."""
    connection.execute("DELETE FROM conversation_items WHERE conversation = ?", (identity,))
    connection.execute("DELETE FROM conversations WHERE id = ?", (identity,))
