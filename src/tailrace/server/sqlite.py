"""SQLite files that several servers of one user may share, and that this user alone may read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

#: Seconds to wait for another process that uses the file. Meanwhile everything else that is stored waits, too.
_PATIENCE = 5.0


class DatabaseFile:
    """A database that is opened when it is needed first. One thread at a time may use it."""

    def __init__(self, file: Path, changes: Sequence[str]) -> None:
        """``changes`` as for ``open_database``."""
        self.file = file
        self._changes = changes
        self._opened: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database. Raises as ``open_database`` does."""
        if self._opened is None:
            self._opened = open_database(self.file, self._changes)
        return self._opened

    def replace(self) -> None:
        """Give a damaged file another name, under which it can be examined: the next use makes a new one. Raises
        OSError.
        """
        self.close()
        other = self.file.with_name(f"{self.file.name}.damaged-{int(time.time())}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.file}{suffix}", f"{other}{suffix}")
        structlog.get_logger().error(
            "a database is damaged: a new one is begun", file=str(self.file), damaged=str(other)
        )

    def close(self) -> None:
        """Close it; the next use opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class BoundedDatabase(DatabaseFile):
    """A database that forgets rows by their age and by the bytes that all take."""

    def __init__(self, file: Path, changes: Sequence[str], *, megabytes: int, days: int) -> None:
        super().__init__(file, changes)
        self.max_bytes = megabytes * 1_000_000
        self._max_seconds = days * 86_400

    @property
    def oldest_time(self) -> float:
        """Seconds since the epoch; rows that were used before are forgotten."""
        return time.time() - self._max_seconds

    def is_full(self) -> bool:
        """Whether pages in use take more than ``max_bytes``. The file doesn't shrink: free pages are used again."""

        def pragma(name: str) -> int:
            return int(self.connection.execute(f"PRAGMA {name}").fetchone()[0])

        return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size") > self.max_bytes


def open_database(file: Path, changes: Sequence[str]) -> sqlite3.Connection:
    """The database in ``file``, brought up to date: each of ``changes`` makes a version of the one before, the first
    of nothing.

    Raises OSError, or sqlite3.Error, also for a version that is newer.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # An existing file isn't opened here: closing it would give back the locks that this process has on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    # Other servers of this user may have it open.
    connection = sqlite3.connect(file, timeout=_PATIENCE)
    _set_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON")
    # BEGIN IMMEDIATE first: then no other server can make the tables at the same time.
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    for change in changes[found:]:
        for statement in change.split(";"):
            connection.execute(statement)
    if found < len(changes):
        connection.execute(f"PRAGMA user_version = {len(changes)}")
    connection.execute("COMMIT")
    connection.isolation_level = "IMMEDIATE"
    if found > len(changes):
        connection.close()
        raise sqlite3.DatabaseError(f"{file} is of a newer version of tailrace: move it away, or update tailrace")
    return connection


def _set_wal(connection: sqlite3.Connection) -> None:
    """Have readers and a writer not wait for each other. The file remembers it. Raises sqlite3.Error."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own timeout isn't asked here while another server makes the file.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
