"""Named keys in PostgreSQL, and how much each is used by all servers together: the tables, for one connection.

A server's own part is in ``shared_keys``; ``tailrace keys`` changes keys by ``PostgresKeys``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from tailrace.errors import ConfigurationError, TailraceError
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.postgres import process_lease, schema
from tailrace.server.postgres.connection import Connection, DatabaseFailure

CHANGES = (
    """
CREATE TABLE tailrace_keys (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BYTEA NOT NULL);
CREATE TABLE tailrace_key_changes (number BIGINT NOT NULL);  -- one row: it grows with each change of the keys
INSERT INTO tailrace_key_changes VALUES (1);
CREATE TABLE tailrace_key_days (  -- tokens of a day of UTC
    key TEXT NOT NULL,
    day DATE NOT NULL,
    tokens BIGINT NOT NULL,
    PRIMARY KEY (key, day)
);
CREATE TABLE tailrace_key_places (  -- requests that a process runs for a key with a limit of them
    key TEXT NOT NULL,
    process BIGINT NOT NULL,
    running INTEGER NOT NULL,
    PRIMARY KEY (key, process)
);
CREATE TABLE tailrace_key_levels (
    key TEXT PRIMARY KEY,
    level DOUBLE PRECISION NOT NULL,  -- tokens that are left of the minute's; negative: a debt
    level_at TIMESTAMPTZ NOT NULL,
    minute BIGINT NOT NULL  -- the limit at that time
);
-- Writes down what a process has used of a key, and begins a request unless wanted is NULL, the prompt's tokens. The
-- row of the key's level is locked meanwhile, so servers come one after another.
CREATE FUNCTION tailrace_use_key(
    the_key TEXT, the_process BIGINT, used BIGINT, running INTEGER, wanted BIGINT,
    concurrency INTEGER, per_minute BIGINT, per_day BIGINT,
    OUT refused BOOLEAN, OUT elsewhere INTEGER, OUT left_of_minute DOUBLE PRECISION, OUT used_today BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    found tailrace_key_levels;
    now_is TIMESTAMPTZ;
    today DATE;
BEGIN
    INSERT INTO tailrace_key_levels
        VALUES (the_key, coalesce(per_minute, 0), clock_timestamp(), coalesce(per_minute, 0)) ON CONFLICT DO NOTHING;
    SELECT * INTO found FROM tailrace_key_levels WHERE key = the_key FOR UPDATE;
    now_is := clock_timestamp();
    today := (now_is AT TIME ZONE 'UTC')::date;
    left_of_minute := least(
        per_minute,
        found.level + per_minute - found.minute + extract(epoch FROM now_is - found.level_at) * per_minute / 60
    ) - used;
    INSERT INTO tailrace_key_days VALUES (the_key, today, used)
        ON CONFLICT (key, day) DO UPDATE SET tokens = tailrace_key_days.tokens + excluded.tokens
        RETURNING tokens INTO used_today;
    SELECT coalesce(sum(places.running), 0) INTO elsewhere FROM tailrace_key_places AS places
        JOIN tailrace_processes ON number = process
        WHERE places.key = the_key AND process <> the_process AND expires > now_is;
    refused := wanted IS NOT NULL AND coalesce(
        elsewhere + running + 1 > concurrency, FALSE) OR coalesce(
        left_of_minute < greatest(wanted, 1), FALSE) OR coalesce(
        used_today + greatest(wanted, 1) > per_day, FALSE);
    IF wanted IS NOT NULL AND NOT refused THEN
        running := running + 1;
        left_of_minute := left_of_minute - wanted;
        used_today := used_today + wanted;
        UPDATE tailrace_key_days SET tokens = used_today WHERE key = the_key AND day = today;
    END IF;
    IF concurrency IS NOT NULL THEN
        INSERT INTO tailrace_key_places VALUES (the_key, the_process, running)
            ON CONFLICT (key, process) DO UPDATE SET running = excluded.running;
    END IF;
    UPDATE tailrace_key_levels SET level = coalesce(left_of_minute, 0), level_at = now_is,
        minute = coalesce(per_minute, 0) WHERE key = the_key;
END $$;
""",
)
#: The tables of keys, and those that they need.
PARTS = {"processes": process_lease.CHANGES, "keys": CHANGES}
#: Days whose use is kept, as in ``usage_store``.
_KEPT_DAYS = 400

_CHANGED = "UPDATE tailrace_key_changes SET number = number + 1"
_ADD_USE = (
    "INSERT INTO tailrace_key_days SELECT key, (clock_timestamp() AT TIME ZONE 'UTC')::date, tokens "
    "FROM unnest(%s::text[], %s::bigint[]) AS new (key, tokens) ORDER BY key "
    "ON CONFLICT (key, day) DO UPDATE SET tokens = tailrace_key_days.tokens + excluded.tokens"
)
_TODAY = "SELECT key, tokens FROM tailrace_key_days WHERE day = (clock_timestamp() AT TIME ZONE 'UTC')::date"
_LOOK = f"WITH renewed AS ({process_lease.RENEW}) SELECT number FROM tailrace_key_changes"
_USE = (
    "SELECT refused, elsewhere, left_of_minute, used_today "
    "FROM tailrace_use_key(%s, %s, %s, %s, %s::bigint, %s::integer, %s::bigint, %s::bigint)"
)


class KeyUse(NamedTuple):
    """The use of a key by all servers."""

    refused: bool  #: the request that was to begin may not
    elsewhere: int  #: requests that other servers run
    left_of_minute: float | None  #: tokens; None without a limit a minute
    used_today: int  #: tokens


def look(connection: Connection, process: int) -> int:
    """Renew the lease of this process. The number of the keys' last change."""
    row = connection.row(_LOOK, (process,))
    if row is None:
        raise DatabaseFailure("the table of the keys' changes is empty")
    return int(row[0])


def read(connection: Connection) -> list[KeyRecord]:
    """All keys. Raises DatabaseFailure for one that can't be read."""
    rows = connection.rows("SELECT record FROM tailrace_keys ORDER BY name")
    try:
        return [msgspec.json.decode(record, type=KeyRecord) for (record,) in rows]
    except msgspec.DecodeError as error:
        raise DatabaseFailure(f"a key can't be read: {error}") from None


def use(connection: Connection, process: int, record: KeyRecord, used: int, running: int, wanted: int | None) -> KeyUse:
    """Write down that this process has ``used`` so many tokens more and runs so many requests of the key. ``wanted``:
    tokens of the prompt of a request that is to begin; None: none is to.
    """
    limits = (record.concurrency, record.tokens_per_minute, record.tokens_per_day)
    row = connection.row(_USE, (record.id, process, used, running, wanted, *limits))
    assert row is not None, "a function has a result"
    return KeyUse(*row)


def add_use(connection: Connection, used: Mapping[str, int]) -> None:
    """Add tokens of keys without limits, by their id; forget days and processes that are long over."""
    connection.rows(_ADD_USE, (list(used), list(used.values())))
    connection.rows("DELETE FROM tailrace_key_days WHERE day < now() - %s * interval '1 day'", (_KEPT_DAYS,))
    connection.rows(process_lease.FORGET)
    connection.rows("DELETE FROM tailrace_key_places WHERE process NOT IN (SELECT number FROM tailrace_processes)")


class PostgresKeys:
    """The keys, for a command that changes or lists them. Every method raises TailraceError where PostgreSQL can't be
    used.
    """

    #: What messages call it: the address may have a password.
    place = "the database of keys_store"

    def __init__(self, address: str) -> None:
        self._address = address

    def read(self) -> list[KeyRecord]:
        """All keys."""
        with self._connected() as connection:
            return read(connection)

    def used_today(self) -> dict[str, int]:
        """Each key's tokens of the day, by its id."""
        with self._connected() as connection:
            return {key: int(tokens) for key, tokens in connection.rows(_TODAY)}

    def add(self, record: KeyRecord) -> bool:
        """Add a key; True when it is the first. Raises ConfigurationError for a name that is taken."""
        row = (record.id, record.name, msgspec.json.encode(record))
        with self._connected() as connection, connection.transaction():
            if not connection.count("INSERT INTO tailrace_keys VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", row):
                raise ConfigurationError(
                    f"there is a key '{record.name}' already; revoke it first, or choose another name"
                )
            connection.rows(_CHANGED)
            return len(connection.rows("SELECT FROM tailrace_keys LIMIT 2")) == 1

    def remove(self, name: str) -> int:
        """Remove a key; the number of those that are left. Raises ConfigurationError where there is none."""
        with self._connected() as connection, connection.transaction():
            if not connection.count("DELETE FROM tailrace_keys WHERE name = %s", (name,)):
                raise ConfigurationError(f"there is no key '{name[:80]}' in {self.place}")
            connection.rows(_CHANGED)
            return len(connection.rows("SELECT FROM tailrace_keys"))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            connection = Connection(self._address)
            try:
                schema.bring_up_to_date(connection, PARTS)
                yield connection
            finally:
                connection.close()
        except DatabaseFailure as error:
            raise TailraceError(f"{self.place} can't be used: {error}") from None
