"""Brings tables in PostgreSQL up to date, once for all servers that share them.

``tailrace_versions`` has the version of each part. A part is what one package stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tailrace.server.postgres.connection import Connection, DatabaseFailure

#: The advisory lock of changes: an arbitrary number that other programs don't use.
_LOCK = 7_386_241_903
_VERSION = "SELECT version FROM tailrace_versions WHERE part = %s"


def bring_up_to_date(connection: Connection, changes: Mapping[str, Sequence[str]]) -> None:
    """Make every part's newest version: the first of its changes makes version 1 of nothing. Raises DatabaseFailure,
    also for a version that is newer.
    """
    if _versions(connection, changes) == {part: len(steps) for part, steps in changes.items()}:
        return
    with connection.transaction():
        # Other servers may start at the same time.
        connection.rows("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.rows(
            "CREATE TABLE IF NOT EXISTS tailrace_versions (part TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )
        found = _versions(connection, changes)
        for part, steps in changes.items():
            version = found.get(part, 0)
            if version > len(steps):
                raise DatabaseFailure(f"the tables of {part} are of another version of tailrace; use another database")
            for step in steps[version:]:
                connection.script(step)
            connection.rows(
                "INSERT INTO tailrace_versions VALUES (%s, %s) "
                "ON CONFLICT (part) DO UPDATE SET version = excluded.version",
                (part, len(steps)),
            )


def _versions(connection: Connection, parts: Iterable[str]) -> dict[str, int]:
    exists = connection.row("SELECT to_regclass('tailrace_versions') IS NOT NULL")
    if exists is None or not exists[0]:
        return {}
    found = {part: connection.row(_VERSION, (part,)) for part in parts}
    return {part: int(row[0]) for part, row in found.items() if row is not None}
