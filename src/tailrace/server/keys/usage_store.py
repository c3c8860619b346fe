"""The tokens that each key has used in a day, in SQLite: they outlive the process, and a user's servers share them.

Use is added every few seconds while there is some, so a killed process loses a few seconds of it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import structlog

from tailrace.folders import state_folder
from tailrace.server.sqlite import DatabaseFile

_CHANGES = (
    """
CREATE TABLE usage (
    key TEXT NOT NULL,  -- its id
    day TEXT NOT NULL,  -- of UTC
    tokens INTEGER NOT NULL,
    PRIMARY KEY (key, day)
) WITHOUT ROWID
""",
)
#: Days whose use is kept, for ``tailrace keys list`` and questions about a bill.
_KEPT_DAYS = 400


def default_file() -> Path:
    """``$XDG_STATE_HOME/tailrace/key-usage.sqlite``, or the same under ``~/.local/state``."""
    return state_folder() / "key-usage.sqlite"


def read_day(file: Path, day: str) -> dict[str, int]:
    """The tokens of each key in a day; none where the file can't be read. It never waits for a writer."""
    if not file.exists():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            return dict(connection.execute("SELECT key, tokens FROM usage WHERE day = ?", (day,)).fetchall())
    except sqlite3.Error as error:
        structlog.get_logger().error("the keys' use of the day isn't known", file=str(file), error=str(error))
        return {}


class UsageStore:
    """The store, for one thread. It raises nothing: what a full disk or a broken file loses is logged once."""

    def __init__(self, file: Path) -> None:
        self._database = DatabaseFile(file, _CHANGES)
        self._failed = False

    def add(self, used: Mapping[tuple[str, str], int]) -> bool:
        """Add tokens, by key and day. False when they couldn't be stored."""
        try:
            with self._database.connection as connection:
                connection.executemany(
                    "INSERT INTO usage VALUES (?, ?, ?) "
                    "ON CONFLICT (key, day) DO UPDATE SET tokens = tokens + excluded.tokens",
                    [(key, day, tokens) for (key, day), tokens in used.items()],
                )
                connection.execute("DELETE FROM usage WHERE day < date('now', ?)", (f"-{_KEPT_DAYS} days",))
        except (OSError, sqlite3.Error) as error:
            self._report(error)
            return False
        self._failed = False
        return True

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _report(self, error: Exception) -> None:
        self._database.close()
        if not self._failed:
            structlog.get_logger().error(
                "the keys' use can't be stored: limits a day begin anew at a restart",
                file=str(self._database.file),
                error=str(error),
            )
        self._failed = True
