"""Stored responses: bounds, order, and what another process leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import InvalidRequest, NotFound, StorageUnavailable
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.sqlite_store import SqliteResponseStore


def body(identity: str, previous: str | None = None, text: str = "", status: str = "completed") -> dict[str, Any]:
    output = [{"id": f"msg_{identity}", "type": "message", "content": text}]
    return {"id": identity, "status": status, "previous_response_id": previous, "output": output, "error": None}


def inputs(identity: str) -> list[Item]:
    return [{"id": f"in_{identity}", "type": "message", "role": "user", "content": identity}]


def play(
    file: Path, scenario: Callable[[SqliteResponseStore], Awaitable[None]], megabytes: int = 10, days: int = 30
) -> None:
    """Runs a scenario with a store."""

    async def inside() -> None:
        store = SqliteResponseStore(file, megabytes=megabytes, days=days)
        try:
            await scenario(store)
        finally:
            store.close()

    asyncio.run(inside())


def ids(items: list[Item]) -> list[str]:
    return [item["id"] for item in items]


def test_a_conversation_is_all_that_its_last_response_builds_on(tmp_path: Path) -> None:
    async def scenario(store: SqliteResponseStore) -> None:
        for identity, previous in (("a", None), ("b", "a"), ("x", "a"), ("c", "b")):
            store.put(body(identity, previous), inputs(identity), "")
        assert ids(await store.conversation("c", "")) == ["in_a", "msg_a", "in_b", "msg_b", "in_c", "msg_c"]
        assert await store.get("b", "") == body("b", "a")
        await store.delete("a", "")
        with pytest.raises(InvalidRequest, match="any more") as caught:
            await store.conversation("c", "")
        assert caught.value.param == "previous_response_id"
        with pytest.raises(NotFound):
            await store.get("a", "")

    play(tmp_path / "s", scenario)


def test_a_later_state_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    async def scenario(store: SqliteResponseStore) -> None:
        store.put({**body("a", status="in_progress"), "output": []}, inputs("a"), "")
        store.put(body("a", text="done"), inputs("a"), "")
        assert await store.get("a", "") == body("a", text="done")
        assert ids((await store.inputs("a", "", after=None, limit=10, order="asc")).items) == ["in_a"]

    play(tmp_path / "s", scenario)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """A conversation that goes on stays whole, however old its beginning is."""

    async def scenario(store: SqliteResponseStore) -> None:
        store.put(body("first"), inputs("first"), "")
        store.put(body("second", "first"), inputs("second"), "")
        for number in range(60):
            store.put(body(f"r{number}", text="x" * 50_000), inputs("r"), "")
            await store.conversation("second", "")
        with pytest.raises(NotFound):
            await store.get("r0", "")
        assert (await store.get("r59", ""))["output"][0]["content"] == "x" * 50_000
        kept = sum([await found(store, f"r{number}") for number in range(60)])
        assert 10 <= kept <= 20, "a megabyte of them"

    async def found(store: SqliteResponseStore, identity: str) -> bool:
        try:
            await store.get(identity, "")
        except NotFound:
            return False
        return True

    play(tmp_path / "s", scenario, megabytes=1)
    assert (tmp_path / "s").stat().st_size < 2_000_000


def test_unused_responses_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])

    async def scenario(store: SqliteResponseStore) -> None:
        store.put(body("old"), [], "")
        store.put(body("used"), [], "")
        await store.get("used", "")
        now[0] += 20 * 3600
        await store.get("used", "")
        now[0] += 20 * 3600
        store.put(body("new"), [], "")
        await store.get("used", "")
        with pytest.raises(NotFound):
            await store.get("old", "")

    play(tmp_path / "s", scenario, days=1)


def test_two_servers_may_share_a_file(tmp_path: Path) -> None:
    async def scenario(one: SqliteResponseStore) -> None:
        other = SqliteResponseStore(tmp_path / "s", megabytes=10, days=30)
        try:
            for number in range(20):
                one.put(body(f"a{number}"), [], "")
                other.put(body(f"b{number}"), [], "")
            await one.get("a19", "")
            await other.get("b19", "")
            assert await one.get("b0", "") == body("b0")
            assert await other.get("a0", "") == body("a0")
        finally:
            other.close()

    play(tmp_path / "s", scenario)


def test_a_file_that_another_server_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(tmp_path / "s", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            other.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", wait)

    async def scenario(store: SqliteResponseStore) -> None:
        store.put(body("a"), [], "")
        assert await store.get("a", "") == body("a")

    play(tmp_path / "s", scenario)
    assert len(waits) == 2
    other.close()


def test_a_file_of_another_version_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "s") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    async def scenario(store: SqliteResponseStore) -> None:
        with pytest.raises(StorageUnavailable):
            await store.get("a", "")

    play(tmp_path / "s", scenario)
    assert "is of a newer version" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if "damaged" in path.name] == []


def test_a_failed_store_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    async def scenario(store: SqliteResponseStore) -> None:
        store.put(body("a"), [], "")

    play(tmp_path / "file" / "s", scenario)
    assert "stored responses can't be used" in capsys.readouterr().out


def test_objects_of_before_there_were_keys_belong_to_no_named_key(tmp_path: Path) -> None:
    file = tmp_path / "s"

    async def before(store: SqliteResponseStore) -> None:
        store.put(body("a"), inputs("a"), "")
        await store.get("a", "")

    play(file, before)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        # As the version before has left it.
        for table in ("responses", "conversations"):
            for column in ("caller", "bytes"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("ALTER TABLE responses DROP COLUMN key")
        connection.execute("ALTER TABLE conversations DROP COLUMN key")
        connection.execute("INSERT INTO conversations VALUES ('conv_a', 1, ?, '{}')", (time.time(),))
        connection.execute("PRAGMA user_version = 2")
        connection.commit()

    async def after(store: SqliteResponseStore) -> None:
        assert await store.get("a", "") == body("a")
        assert ids(await store.conversation("a", "")) == ["in_a", "msg_a"]
        assert (await store.conversations.get("conv_a", ""))["id"] == "conv_a"
        for find in (store.get("a", "k1"), store.delete("a", "k1"), store.conversations.items("conv_a", "k1")):
            with pytest.raises(NotFound):
                await find
        assert await store.outputs(["msg_a"], "k1") == {}
        assert await store.outputs(["msg_a"], "") == {"msg_a": body("a")["output"][0]}

    play(file, after)


def test_a_damaged_file_is_set_aside_and_a_new_one_is_begun(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_bytes(b"This is no database. " * 500)

    async def scenario(store: SqliteResponseStore) -> None:
        await store.save(body("a"), inputs("a"), "")
        assert await store.get("a", "") == body("a")

    play(file, scenario)
    (damaged,) = tmp_path.glob("s.damaged-*")
    assert damaged.read_bytes().startswith(b"This is no database.")


def test_a_file_that_is_damaged_while_it_is_open_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "s"

    async def scenario(store: SqliteResponseStore) -> None:
        for number in range(200):
            store.put(body(f"r{number}", text="x" * 5000), inputs("r"), "")
        await store.get("r0", "")
        with sqlite3.connect(file) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with file.open("r+b") as content:
            content.seek(4096)
            content.write(b"\xff" * (file.stat().st_size - 4096))
        await store.save(body("new"), inputs("new"), "")
        assert await store.get("new", "") == body("new")

    play(file, scenario)


def test_a_locked_file_is_unavailable_and_no_endless_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.server.sqlite._PATIENCE", 0.1)
    file = tmp_path / "s"

    async def scenario(store: SqliteResponseStore) -> None:
        await store.save({**body("a", status="in_progress"), "output": []}, inputs("a"), "")
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageUnavailable, match="can't read or write"):
            await store.save(body("b"), inputs("b"), "")
        store.put(body("a"), inputs("a"), "")
        with pytest.raises(StorageUnavailable):
            await store.get("a", "")
        other.execute("COMMIT")
        other.close()
        lost = await store.get("a", "")
        assert (lost["status"], lost["error"]["message"]) == ("failed", "The response's end could not be stored.")

    play(file, scenario)


def test_one_callers_large_responses_push_out_their_own(tmp_path: Path) -> None:
    async def scenario(store: SqliteResponseStore) -> None:
        for number in range(5):
            store.put(body(f"small{number}", text="x" * 1000), inputs("s"), "", "address:10.0.0.1")
        for number in range(60):
            store.put(body(f"large{number}", text="x" * 60_000), inputs("l"), "", "address:10.0.0.2")
        for number in range(5):
            assert await store.get(f"small{number}", "")
        with pytest.raises(NotFound):
            await store.get("large0", "")

    play(tmp_path / "s", scenario, megabytes=1)


def test_one_response_can_not_take_the_whole_store(tmp_path: Path) -> None:
    async def scenario(store: SqliteResponseStore) -> None:
        with pytest.raises(InvalidRequest, match="more than the 125000") as caught:
            await store.save(body("a", text="x" * 130_000), inputs("a"), "")
        assert caught.value.param == "store"
        made = await store.conversations.create([], {}, "")
        with pytest.raises(InvalidRequest, match="more than the 125000"):
            await store.conversations.add(made["id"], "", [{"id": "m", "type": "message", "content": "x" * 130_000}])

    play(tmp_path / "s", scenario, megabytes=1)


def test_no_other_server_adds_to_a_conversation_between_reading_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s"
    locked = []

    def with_new_ids(items: list[Item], known: set[str]) -> list[Item]:
        """What an addition calls between the two."""
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                locked.append(error.sqlite_errorcode)
        return items

    async def scenario(store: SqliteResponseStore) -> None:
        made = (await store.conversations.create([], {}, ""))["id"]
        monkeypatch.setattr("tailrace.server.dialects.responses.sqlite_conversations.with_new_ids", with_new_ids)
        await store.conversations.add(made, "", inputs("a"))
        assert ids(await store.conversations.items(made, "")) == ids(inputs("a"))
        with pytest.raises(NotFound):
            await store.conversations.add("conv_none", "", inputs("a"))

    play(file, scenario)
    assert locked == [sqlite3.SQLITE_BUSY]
