"""Whose a stored chat completion is."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from tailrace.errors import NotFound
from tailrace.server.dialects.openai.sqlite_completions import SqliteCompletions


def test_completions_of_before_there_were_keys_belong_to_no_named_key(tmp_path: Path) -> None:
    file = tmp_path / "s"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        # As the version before has left it.
        connection.execute(
            "CREATE TABLE completions (id TEXT PRIMARY KEY, used REAL NOT NULL, body BLOB NOT NULL, "
            "messages BLOB NOT NULL) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO completions VALUES ('old', ?, ?, ?)", (time.time(), b'{"id": "old"}', b"[]"))
        connection.execute("PRAGMA user_version = 1")
        connection.commit()

    async def scenario() -> None:
        store = SqliteCompletions(file, megabytes=1, days=1)
        store.put({"id": "new"}, [], "k1")
        assert (await store.get("old", ""))["id"] == "old"
        assert (await store.get("new", "k1"))["id"] == "new"
        for identity, owner in (("old", "k1"), ("new", ""), ("new", "k2")):
            for find in (
                store.get(identity, owner),
                store.update(identity, owner, {}),
                store.delete(identity, owner),
                store.messages(identity, owner, after=None, limit=1, order="asc"),
            ):
                with pytest.raises(NotFound):
                    await find
        await store.delete("new", "k1")
        store.close()

    asyncio.run(scenario())
