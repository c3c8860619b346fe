"""The recording of a response in the background that another server makes: read from PostgreSQL while it grows."""

from __future__ import annotations

import asyncio

import msgspec

from tailrace.server import sse
from tailrace.server.dialects.responses.event_recording import Recording, decompress_events
from tailrace.server.dialects.responses.store import failed
from tailrace.server.postgres.connection import Connection, DatabaseFailure, Row
from tailrace.server.postgres.database import Database

#: Seconds between two looks for new events.
_LOOK_SECONDS = 0.25

_STATE = "SELECT status, error, body FROM tailrace_responses WHERE id = %s"
#: The rows that have events from some number on. The response's end puts all events into one row.
_EVENTS = "SELECT first, body FROM tailrace_events WHERE response = %s AND first + count > %s ORDER BY first"


class FollowedRecording(Recording):
    """See the module. It reads while a client waits for a change; while PostgreSQL is gone it waits."""

    def __init__(self, database: Database, identity: str, begin: int) -> None:
        """``begin``: the number of the first event that the reader wants."""
        super().__init__()
        self._database = database
        self._identity = identity
        self._begin = begin
        self._reading: asyncio.Task[None] | None = None

    async def changed(self) -> None:
        """See ``Recording``. A reader that stops waiting doesn't end what is being read."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_later())
        await asyncio.shield(self._reading)

    async def read(self) -> None:
        """Read what there is. Raises StorageUnavailable."""
        self._take(*await self._database.run(self._look))

    async def _read_later(self) -> None:
        known = len(self.pieces)
        while len(self.pieces) == known and not self.closed:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                found = await self._database.attempt(self._look)
            except DatabaseFailure:
                continue
            self._take(*found)

    def _look(self, connection: Connection) -> tuple[Row | None, list[Row]]:
        # The state first: the events of an end that it has are there.
        state = connection.row(_STATE, (self._identity,))
        return state, connection.rows(_EVENTS, (self._identity, len(self.pieces)))

    def _take(self, state: Row | None, rows: list[Row]) -> None:
        for first, body in rows:
            self.pieces += decompress_events(body)[len(self.pieces) - first :]
        if state is None:  # It was deleted.
            self.close()
            return
        status, error, body = state
        if status == "in_progress":
            return
        if error is not None and self.pieces:
            # Its server may have sent events to this reader that it couldn't store.
            number = max(len(self.pieces), self._begin)
            response = {**failed(msgspec.json.decode(body), error), "output": []}
            event = {"type": "response.failed", "response": response, "sequence_number": number}
            self.pieces += [b""] * (number - len(self.pieces))
            self.pieces.append(sse.named("response.failed", msgspec.json.encode(event)))
        self.close()
