"""The tables of responses and conversations in PostgreSQL, and the bounds of what they hold."""

from __future__ import annotations

import threading
import time

from tailrace.server.dialects.responses.store import check_size
from tailrace.server.postgres import process_lease
from tailrace.server.postgres.connection import Connection

CHANGES = (
    """
CREATE TABLE tailrace_responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    key TEXT NOT NULL,  -- the id of the API key that stored it; empty for the setting's and for servers without keys
    caller TEXT NOT NULL,  -- whose bytes they are
    status TEXT NOT NULL,  -- counts instead of the body's, which stays in_progress where another server has ended it
    lease BIGINT,  -- of the process that makes it, while it is in progress
    wants_cancel BOOLEAN NOT NULL DEFAULT FALSE,  -- another server has been told to cancel it
    error TEXT,  -- why it has failed without an end of its own
    used TIMESTAMPTZ NOT NULL,  -- when it was last made, looked up or built on, about
    bytes BIGINT NOT NULL,
    body BYTEA NOT NULL,  -- without its output
    inputs BYTEA NOT NULL,
    output BYTEA NOT NULL,
    output_ids TEXT[] NOT NULL
);
CREATE INDEX tailrace_responses_lease ON tailrace_responses (lease) WHERE status = 'in_progress';
CREATE INDEX tailrace_responses_output ON tailrace_responses USING gin (output_ids);
CREATE TABLE tailrace_events (  -- of responses in the background, as they are streamed
    response TEXT NOT NULL REFERENCES tailrace_responses ON DELETE CASCADE,
    first INTEGER NOT NULL,  -- the number of its first event
    count INTEGER NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (response, first)
);
CREATE TABLE tailrace_conversations (
    id TEXT PRIMARY KEY,
    created BIGINT NOT NULL,
    key TEXT NOT NULL,
    caller TEXT NOT NULL,
    used TIMESTAMPTZ NOT NULL,
    bytes BIGINT NOT NULL,
    metadata BYTEA NOT NULL
);
CREATE TABLE tailrace_conversation_items (
    conversation TEXT NOT NULL REFERENCES tailrace_conversations ON DELETE CASCADE,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (conversation, position),
    UNIQUE (conversation, id)
);
""",
)

#: Seconds for which an object counts as used just now: fewer reads write.
TOUCH_SECONDS = 60
#: The part of the bound that a process may write before it looks whether the bound is kept, and the time in seconds.
_LOOK_SHARE = 1 / 64
_LOOK_SECONDS = 60.0
#: The advisory lock of the process that deletes what is too much: an arbitrary number.
_LOCK = 7_386_241_904
#: Steps of one look: each takes from the caller that has most.
_MAX_STEPS = 100

_TABLES = ("tailrace_responses", "tailrace_conversations")
_STORED = " UNION ALL ".join(f"SELECT id, used, caller, bytes FROM {table}" for table in _TABLES)
_LARGEST = (
    f"SELECT caller, sum(bytes)::bigint, sum(sum(bytes)) OVER ()::bigint FROM ({_STORED}) AS stored "
    "GROUP BY caller ORDER BY 2 DESC, 1 LIMIT 2"
)
#: The least recently used objects of a caller that have so many bytes together.
_OLDEST = (
    f"SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY used, id) - bytes AS before FROM ({_STORED}) AS stored "
    "WHERE caller = %s) AS ordered WHERE before < %s"
)


class Bounds:
    """How much is stored, and for how long. It is looked at on threads, after writes."""

    def __init__(self, max_bytes: int, max_days: int) -> None:
        self._max_bytes = max_bytes
        self._max_days = max_days
        self._lock = threading.Lock()
        self._written = 0  #: bytes since the last look
        self._looked_at = time.monotonic()

    def check(self, size: int) -> None:
        """Raise InvalidRequest for an object of ``size`` bytes that is too large."""
        check_size(size, self._max_bytes)

    def wrote(self, connection: Connection, size: int) -> None:
        """So many bytes were written: delete what is too old or too much, if it is time to look."""
        now = time.monotonic()
        with self._lock:
            self._written += size
            if self._written < self._max_bytes * _LOOK_SHARE and now - self._looked_at < _LOOK_SECONDS:
                return
            self._written, self._looked_at = 0, now
        self.keep(connection)

    def keep(self, connection: Connection) -> None:
        """Delete what is too old, and the least recently used of the caller that has most while there is too much."""
        with connection.transaction():
            found = connection.row("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
            if found is None or not found[0]:
                return  # Another server is at it.
            connection.rows(process_lease.FORGET)
            for table in _TABLES:
                connection.rows(f"DELETE FROM {table} WHERE used < now() - %s * interval '1 day'", (self._max_days,))
            for _ in range(_MAX_STEPS):
                largest = connection.rows(_LARGEST)
                if not largest or largest[0][2] <= self._max_bytes:
                    return
                (caller, most, total), second = largest[0], largest[1][1] if len(largest) > 1 else 0
                identities = connection.rows(_OLDEST, (caller, min(total - self._max_bytes, max(most - second, 1))))
                for table in _TABLES:
                    connection.rows(f"DELETE FROM {table} WHERE id = ANY(%s)", ([one for (one,) in identities],))
