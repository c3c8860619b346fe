"""The store of conversations in PostgreSQL. See ``ConversationStore``."""

from __future__ import annotations

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
from tailrace.server.dialects.responses.postgres_tables import Bounds
from tailrace.server.postgres.connection import Connection
from tailrace.server.postgres.database import Database

_USE = "UPDATE tailrace_conversations SET used = now() WHERE id = %s AND key = %s RETURNING created, metadata"
#: Locks the conversation, so that servers append one after another.
_LOCK = "SELECT bytes FROM tailrace_conversations WHERE id = %s AND key = %s FOR UPDATE"
_KNOWN = "SELECT id, position FROM tailrace_conversation_items WHERE conversation = %s"
_ITEMS = "SELECT body FROM tailrace_conversation_items WHERE conversation = %s ORDER BY position"
_INSERT = (
    "WITH added AS (INSERT INTO tailrace_conversation_items "
    "SELECT %s, * FROM unnest(%s::integer[], %s::text[], %s::bytea[])) "
    "UPDATE tailrace_conversations SET bytes = %s, used = now() WHERE id = %s"
)


class PostgresConversations:
    """See ``ConversationStore``."""

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        put: Callable[[str, Callable[[Connection], object]], None],
    ) -> None:
        """``put`` starts work that no client waits for; its first argument is what it is for."""
        self._database = database
        self._bounds = bounds
        self._put = put

    async def create(self, items: list[Item], metadata: dict[str, str], owner: str, caller: str = "") -> dict[str, Any]:
        """See ``ConversationStore``."""
        identity, created = new_id("conversation"), int(time.time())

        def work(connection: Connection) -> None:
            encoded = msgspec.json.encode(metadata)
            row = (identity, created, owner, caller, len(encoded), encoded)
            with connection.transaction():
                connection.rows("INSERT INTO tailrace_conversations VALUES (%s, %s, %s, %s, now(), %s, %s)", row)
                self._insert(connection, identity, items, len(encoded))

        await self._database.run(work)
        return conversation_object(identity, created, metadata)

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``ConversationStore``."""
        return await self._database.run(lambda connection: _get(connection, identity, owner))

    async def update(self, identity: str, owner: str, metadata: dict[str, str]) -> dict[str, Any]:
        """See ``ConversationStore``."""

        def work(connection: Connection) -> dict[str, Any]:
            connection.rows(
                "UPDATE tailrace_conversations SET metadata = %s WHERE id = %s AND key = %s",
                (msgspec.json.encode(metadata), identity, owner),
            )
            return _get(connection, identity, owner)

        return await self._database.run(work)

    async def delete(self, identity: str, owner: str) -> None:
        """See ``ConversationStore``."""
        statement = "DELETE FROM tailrace_conversations WHERE id = %s AND key = %s"
        if not await self._database.run(lambda connection: connection.count(statement, (identity, owner))):
            raise no_conversation(identity)

    async def items(self, identity: str, owner: str) -> list[Item]:
        """See ``ConversationStore``."""

        def work(connection: Connection) -> list[Item]:
            _get(connection, identity, owner)
            return [msgspec.json.decode(body) for (body,) in connection.rows(_ITEMS, (identity,))]

        return await self._database.run(work)

    async def page(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``ConversationStore``."""
        items = await self.items(identity, owner)
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    async def add(self, identity: str, owner: str, items: list[Item]) -> list[Item]:
        """See ``ConversationStore``."""
        added = await self._database.run(lambda connection: self._add(connection, identity, owner, items))
        return [as_listed(item) for item in added]

    def append(self, identity: str, owner: str, items: list[Item]) -> None:
        """See ``ConversationStore``."""

        def work(connection: Connection) -> None:
            try:
                self._add(connection, identity, owner, items)
            except NotFound:
                return  # The conversation was deleted while the reply was generated.

        self._put(identity, work)

    async def item(self, identity: str, owner: str, item: str) -> Item:
        """See ``ConversationStore``."""

        def work(connection: Connection) -> Item:
            _get(connection, identity, owner)
            query = "SELECT body FROM tailrace_conversation_items WHERE conversation = %s AND id = %s"
            row = connection.row(query, (identity, item))
            if row is None:
                raise no_item(identity, item)
            return as_listed(msgspec.json.decode(row[0]))

        return await self._database.run(work)

    async def remove(self, identity: str, owner: str, item: str) -> dict[str, Any]:
        """See ``ConversationStore``."""

        def work(connection: Connection) -> dict[str, Any]:
            found = _get(connection, identity, owner)
            statement = "DELETE FROM tailrace_conversation_items WHERE conversation = %s AND id = %s"
            if not connection.count(statement, (identity, item)):
                raise no_item(identity, item)
            return found

        return await self._database.run(work)

    def _add(self, connection: Connection, identity: str, owner: str, items: list[Item]) -> list[Item]:
        with connection.transaction():
            row = connection.row(_LOCK, (identity, owner))
            if row is None:
                raise no_conversation(identity)
            return self._insert(connection, identity, items, int(row[0]))

    def _insert(self, connection: Connection, identity: str, items: list[Item], size: int) -> list[Item]:
        """The stored items, of a conversation that this transaction has locked or made, and that has ``size`` bytes."""
        known: dict[str, int] = dict(connection.rows(_KNOWN, (identity,)))
        begin = max(known.values(), default=-1) + 1
        added = with_new_ids(items, set(known))
        bodies = [msgspec.json.encode(item) for item in added]
        written = sum(map(len, bodies))
        self._bounds.check(size + written)
        positions = list(range(begin, begin + len(added)))
        ids = [item["id"] for item in added]
        connection.rows(_INSERT, (identity, positions, ids, bodies, size + written, identity))
        self._bounds.wrote(connection, written)
        return added


def _get(connection: Connection, identity: str, owner: str) -> dict[str, Any]:
    row = connection.row(_USE, (identity, owner))
    if row is None:
        raise no_conversation(identity)
    return conversation_object(identity, row[0], msgspec.json.decode(row[1]))
