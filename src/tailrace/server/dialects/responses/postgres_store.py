"""The store of responses in PostgreSQL: several servers answer from it.

A response has one end. A server ends those that it has begun, while it holds its lease; where the lease is over,
another server makes them failed. Each end is one statement that changes a response in progress alone, so the second of
two ends finds none.

All work is done by a pool's threads. What no client waits for is tried again while PostgreSQL is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import msgspec
import structlog

from tailrace.errors import RequestError
from tailrace.server.dialects.responses.conversation_store import ConversationStore
from tailrace.server.dialects.responses.event_recording import Recording, compress_events
from tailrace.server.dialects.responses.followed_recording import FollowedRecording
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.page import Order, Page, page
from tailrace.server.dialects.responses.postgres_conversations import PostgresConversations
from tailrace.server.dialects.responses.postgres_tables import CHANGES, TOUCH_SECONDS, Bounds
from tailrace.server.dialects.responses.store import (
    LOST,
    MAX_CHAIN,
    STOPPED,
    broken_chain,
    failed,
    not_done,
    not_found,
    without_output,
)
from tailrace.server.postgres import process_lease
from tailrace.server.postgres.connection import Connection, DatabaseFailure
from tailrace.server.postgres.database import LIMIT_SECONDS, Database
from tailrace.server.postgres.process_lease import ProcessLease

#: Ends that wait for a PostgreSQL that is gone, with all that they store. Of further ones only the failure is stored.
_MAX_LATE = 256
#: Seconds that another server has for a cancel, and between two looks whether it has done it.
_CANCEL_SECONDS = 3.0
_CANCEL_LOOK_SECONDS = 0.1

_BEGIN = """
INSERT INTO tailrace_responses
    (id, previous, key, caller, status, lease, used, bytes, body, inputs, output, output_ids)
VALUES (%s, %s, %s, %s, %s, %s, now(), %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, lease = excluded.lease, used = excluded.used,
    bytes = excluded.bytes, body = excluded.body, output = excluded.output, output_ids = excluded.output_ids
"""
_END = """
UPDATE tailrace_responses SET status = %s, lease = NULL, used = now(), bytes = %s, body = %s, output = %s,
    output_ids = %s
WHERE id = %s AND status = 'in_progress' AND lease = %s
"""
#: The end of a response in the background. One row has all events from then on.
_END_RECORDED = f"""
WITH ended AS ({_END} RETURNING id),
rest AS (DELETE FROM tailrace_events WHERE response IN (SELECT id FROM ended) AND first > 0)
INSERT INTO tailrace_events SELECT id, 0, %s, %s FROM ended
ON CONFLICT (response, first) DO UPDATE SET count = excluded.count, body = excluded.body
"""
#: Without waiting for another server that does the same.
_TOUCH = f"""
UPDATE tailrace_responses SET used = now() WHERE id IN (SELECT id FROM tailrace_responses WHERE id IN (SELECT id FROM
    found) AND used < now() - interval '{TOUCH_SECONDS} seconds' FOR UPDATE SKIP LOCKED)
"""
_GET = f"""
WITH found AS (SELECT id, status, error, body, inputs, output FROM tailrace_responses WHERE id = %s AND key = %s),
touched AS ({_TOUCH})
SELECT status, error, body, inputs, output FROM found
"""
_CHAIN = f"""
WITH RECURSIVE found AS (
    SELECT id, previous, 1 AS depth FROM tailrace_responses WHERE id = %s AND key = %s
    UNION ALL
    SELECT earlier.id, earlier.previous, depth + 1 FROM tailrace_responses AS earlier
    JOIN found ON earlier.id = found.previous WHERE key = %s AND depth < {MAX_CHAIN}
),
touched AS ({_TOUCH})
SELECT found.previous, status, inputs, output FROM found JOIN tailrace_responses USING (id) ORDER BY depth DESC
"""
_OUTPUTS = "SELECT output FROM tailrace_responses WHERE output_ids && %s AND key = %s"
#: One round trip for all responses in the background: it stores their new events and reads their status.
_EXCHANGE = f"""
WITH renewed AS ({process_lease.RENEW}),
running AS (SELECT id, status, wants_cancel FROM tailrace_responses WHERE id = ANY(%s) FOR KEY SHARE),
written AS (
    INSERT INTO tailrace_events SELECT new.* FROM unnest(%s::text[], %s::integer[], %s::integer[], %s::bytea[])
        AS new (response, first, count, body) JOIN running ON id = response AND status = 'in_progress'
    ON CONFLICT (response, first) DO UPDATE SET count = excluded.count, body = excluded.body
)
SELECT id, status, wants_cancel FROM running
"""
_FAIL_ABANDONED = f"""
UPDATE tailrace_responses SET status = 'failed', error = %s, lease = NULL
WHERE status = 'in_progress' AND lease NOT IN ({process_lease.ALIVE})
"""
_FAIL = """
UPDATE tailrace_responses SET status = 'failed', error = %s, lease = NULL
WHERE id = %s AND status = 'in_progress' AND lease = %s
"""
_WANT_CANCEL = """
UPDATE tailrace_responses SET wants_cancel = TRUE WHERE id = %s AND key = %s AND status = 'in_progress'
"""
_CANCEL = """
UPDATE tailrace_responses SET status = 'cancelled', lease = NULL WHERE id = %s AND key = %s AND status = 'in_progress'
"""


class Progress(NamedTuple):
    """What other servers have to know of a response in the background that runs here."""

    first: int  #: the number of the first event that they may not have
    pieces: list[bytes]  #: from it on


class Fate(NamedTuple):
    """What has happened to a response that runs here."""

    status: str  #: ``in_progress``, unless another server has ended it
    wants_cancel: bool


class PostgresResponseStore:
    """See ``ResponseStore``. ``megabytes`` and ``days`` bound it."""

    is_shared = True

    def __init__(self, database: Database, *, megabytes: int, days: int) -> None:
        self._database = database
        database.use("processes", process_lease.CHANGES)
        database.use("responses", CHANGES)
        self._bounds = Bounds(megabytes * 1_000_000, days)
        self.lease = ProcessLease()
        self._begun: set[str] = set()  #: responses in progress that this process has stored
        self._pending: set[Future[Any]] = set()
        self._latest: dict[str, Future[Any]] = {}  #: what was put last of an object
        self._late: deque[tuple[str, Callable[[Connection], object]]] = deque()
        self.conversations: ConversationStore = PostgresConversations(database, self._bounds, self._put)

    def put(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """See ``ResponseStore``."""
        self._put(body["id"], lambda connection: self._store(connection, body, inputs, owner, caller))

    def put_end(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str, recording: Recording) -> None:
        """See ``ResponseStore``."""
        pieces = recording.pieces
        self._put(body["id"], lambda connection: self._store(connection, body, inputs, owner, caller, pieces))

    async def save(self, body: dict[str, Any], inputs: list[Item], owner: str, caller: str = "") -> None:
        """See ``ResponseStore``."""
        await self._database.run(lambda connection: self._store(connection, body, inputs, owner, caller))

    async def settled(self) -> None:
        """See ``ResponseStore``. What PostgreSQL doesn't take in time counts as failed, and is tried again later."""
        if self._pending:
            await asyncio.wait([asyncio.wrap_future(one) for one in list(self._pending)], timeout=LIMIT_SECONDS)

    async def get(self, identity: str, owner: str) -> dict[str, Any]:
        """See ``ResponseStore``."""
        return (await self._found(identity, owner)).response

    async def delete(self, identity: str, owner: str) -> None:
        """See ``ResponseStore``."""
        if (await self.get(identity, owner))["status"] == "in_progress":
            await self.cancel(identity, owner)
        statement = "DELETE FROM tailrace_responses WHERE id = %s AND key = %s"
        if not await self._database.run(lambda connection: connection.count(statement, (identity, owner))):
            raise not_found(identity)

    async def cancel(self, identity: str, owner: str) -> None:
        """See ``ResponseStore``. Where the other server doesn't do it in time, the response is cancelled without it:
        without what was written so far.
        """
        asked = await self._database.run(lambda connection: connection.count(_WANT_CANCEL, (identity, owner)))
        deadline = asyncio.get_running_loop().time() + _CANCEL_SECONDS
        while asked and (await self.get(identity, owner))["status"] == "in_progress":
            if asyncio.get_running_loop().time() > deadline:
                await self._database.run(lambda connection: connection.count(_CANCEL, (identity, owner)))
                return
            await asyncio.sleep(_CANCEL_LOOK_SECONDS)

    async def inputs(self, identity: str, owner: str, *, after: str | None, limit: int, order: Order) -> Page:
        """See ``ResponseStore``."""
        items = (await self._found(identity, owner)).inputs
        if order == "desc":
            items.reverse()
        return page(items, after, limit).listed()

    async def conversation(self, identity: str, owner: str) -> list[Item]:
        """See ``ResponseStore``."""
        await self.settled()
        return await self._database.run(lambda connection: _conversation(connection, identity, owner))

    async def outputs(self, identities: list[str], owner: str) -> dict[str, Item]:
        """See ``ResponseStore``."""
        await self.settled()
        wanted = set(identities)

        def work(connection: Connection) -> dict[str, Item]:
            rows = connection.rows(_OUTPUTS, (identities, owner))
            return {item["id"]: item for (output,) in rows for item in _items(output) if item["id"] in wanted}

        return await self._database.run(work)

    async def recording(self, response: dict[str, Any], begin: int) -> Recording | None:
        """See ``ResponseStore``."""
        if not response["background"]:
            return None
        recording = FollowedRecording(self._database, response["id"], begin)
        await recording.read()
        return recording if recording.pieces or not recording.closed else None

    def close(self) -> None:
        """See ``ResponseStore``. The database finishes what was put when it closes."""
        self._database.submit(lambda connection: connection.rows(process_lease.END, (self.lease.number,)))

    # For the loop of ``SharedBackground``

    async def exchange(self, running: Mapping[str, Progress]) -> dict[str, Fate]:
        """Store what other servers may read of responses that run here, and renew the lease. What has happened to the
        responses; those that were deleted are missing. Raises DatabaseFailure.
        """
        new = {identity: one for identity, one in running.items() if one.pieces}

        def work(connection: Connection) -> dict[str, Fate]:
            rows = connection.rows(
                _EXCHANGE,
                (
                    self.lease.number,
                    list(running),
                    list(new),
                    [one.first for one in new.values()],
                    [len(one.pieces) for one in new.values()],
                    [compress_events(one.pieces) for one in new.values()],
                ),
            )
            return {identity: Fate(status, wants_cancel) for identity, status, wants_cancel in rows}

        found = await self._database.attempt(work)
        self.lease.renewed()
        return found

    async def fail_abandoned(self) -> int:
        """Make the responses failed whose servers have died; how many there were. Raises DatabaseFailure."""
        if not self.lease.may_judge:
            return 0
        return await self._database.attempt(lambda connection: connection.count(_FAIL_ABANDONED, (STOPPED,)))

    async def try_again(self) -> None:
        """Store what couldn't be stored while PostgreSQL was gone. Raises DatabaseFailure."""
        while self._late:
            identity, work = self._late.popleft()
            try:
                await self._database.attempt(work)
            except DatabaseFailure:
                self._late.appendleft((identity, work))
                raise
            except RequestError as error:
                _log_failure(identity, error)

    def _put(self, identity: str, work: Callable[[Connection], object]) -> None:
        """Start work that no client waits for; see ``put``."""

        earlier = self._latest.get(identity)

        def in_order(connection: Connection) -> None:
            # Threads take work in its order, so the earlier work has begun.
            if earlier is not None:
                wait([earlier])
            work(connection)

        def done(future: Future[Any]) -> None:
            self._pending.discard(future)
            if self._latest.get(identity) is future:
                del self._latest[identity]
            if future.cancelled() or (error := future.exception()) is None:
                return
            _log_failure(identity, error)
            if isinstance(error, DatabaseFailure) and len(self._late) < _MAX_LATE:
                self._late.append((identity, work))
            else:
                lost = (LOST, identity, self.lease.number)
                self._late.append((identity, lambda connection: connection.count(_FAIL, lost)))

        future = self._latest[identity] = self._database.submit(in_order)
        self._pending.add(future)
        future.add_done_callback(done)

    def _store(
        self,
        connection: Connection,
        body: dict[str, Any],
        inputs: list[Item],
        owner: str,
        caller: str,
        pieces: list[bytes] | None = None,
    ) -> None:
        """Store a state; on a thread. An end that comes second, after another server's, is dropped."""
        identity, status, output = body["id"], body["status"], body["output"]
        encoded, out = msgspec.json.encode(without_output(body)), msgspec.json.encode(output)
        own = msgspec.json.encode(inputs)
        events = compress_events(pieces) if pieces is not None else b""
        size = len(encoded) + len(out) + len(own) + len(events)
        self._bounds.check(size)
        out_ids = [item["id"] for item in output]
        if identity in self._begun and status != "in_progress":
            end = (status, size, encoded, out, out_ids, identity, self.lease.number)
            if pieces is None:
                connection.count(_END, end)
            else:
                connection.rows(_END_RECORDED, (*end, len(pieces), events))
            self._begun.discard(identity)
        else:
            if self.lease.is_due:
                connection.rows(process_lease.RENEW, (self.lease.number,))
                self.lease.renewed()
            lease = self.lease.number if status == "in_progress" else None
            previous = body["previous_response_id"]
            row = (identity, previous, owner, caller, status, lease, size, encoded, own, out, out_ids)
            connection.rows(_BEGIN, row)
            if status == "in_progress":
                self._begun.add(identity)
        self._bounds.wrote(connection, size)

    async def _found(self, identity: str, owner: str) -> _Found:
        await self.settled()
        row = await self._database.run(lambda connection: connection.row(_GET, (identity, owner)))
        if row is None:
            raise not_found(identity)
        status, error, body, inputs, output = row
        response: dict[str, Any] = msgspec.json.decode(body)
        response = failed(response, error) if error is not None else {**response, "status": status}
        # The API has the output at the end.
        return _Found({**response, "output": _items(output)}, _items(inputs))


class _Found(NamedTuple):
    response: dict[str, Any]
    inputs: list[Item]


def _conversation(connection: Connection, identity: str, owner: str) -> list[Item]:
    rows = connection.rows(_CHAIN, (identity, owner, owner))
    if not rows or rows[0][0] is not None:
        raise broken_chain(identity, is_first=not rows)
    if rows[-1][1] == "in_progress":
        raise not_done(identity)
    return [item for _, _, inputs, output in rows for item in (*_items(inputs), *_items(output))]


def _items(encoded: bytes) -> list[Item]:
    found: list[Item] = msgspec.json.decode(encoded)
    return found


def _log_failure(identity: str, error: BaseException) -> None:
    structlog.get_logger().error("stored responses can't be used", id=identity, error=str(error))
