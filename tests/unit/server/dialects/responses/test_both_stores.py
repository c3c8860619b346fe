"""What every store of responses does: SQLite's and PostgreSQL's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from postgres_server import PostgresServer
from tailrace.errors import InvalidRequest, NotFound
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.items import Item
from tailrace.server.dialects.responses.postgres_store import PostgresResponseStore
from tailrace.server.dialects.responses.sqlite_store import SqliteResponseStore
from tailrace.server.dialects.responses.store import ResponseStore
from tailrace.server.postgres.database import Database


class SqliteStores:
    """Stores on one file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "s"
        self._now = [time.time()]
        monkeypatch.setattr(time, "time", lambda: self._now[0])
        self.made: list[ResponseStore] = []

    def make(self, megabytes: int = 10, days: int = 30) -> ResponseStore:
        """One more server's store."""
        store = SqliteResponseStore(self._file, megabytes=megabytes, days=days)
        self.made.append(store)
        return store

    def age(self, hours: float) -> None:
        """So much time passes."""
        self._now[0] += hours * 3600

    def close(self) -> None:
        """Close all."""
        for store in self.made:
            store.close()


class PostgresStores:
    """Stores in one database."""

    def __init__(self, server: PostgresServer, address: str) -> None:
        self._server = server
        self._address = address
        self._databases: list[Database] = []
        self.made: list[ResponseStore] = []

    def make(self, megabytes: int = 10, days: int = 30) -> ResponseStore:
        """One more server's store."""
        database = Database(self._address, name="responses", connections=3)
        self._databases.append(database)
        store = PostgresResponseStore(database, megabytes=megabytes, days=days)
        self.made.append(store)
        return store

    def age(self, hours: float) -> None:
        """So much time passes."""
        for table in ("tailrace_responses", "tailrace_conversations"):
            self._server.sql(f"UPDATE {table} SET used = used - interval '{hours} hours'", self._address)

    def close(self) -> None:
        """Close all."""
        for database in self._databases:
            database.close()


Stores = SqliteStores | PostgresStores
Play = Callable[[Callable[[Stores], Awaitable[None]]], None]


@pytest.fixture(params=["sqlite", "postgres"])
def play(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs a scenario with stores of each kind."""

    def run(scenario: Callable[[Stores], Awaitable[None]]) -> None:
        async def inside() -> None:
            stores: Stores
            if request.param == "sqlite":
                stores = SqliteStores(tmp_path, monkeypatch)
            else:
                server: PostgresServer = request.getfixturevalue("postgres")
                stores = PostgresStores(server, server.database())
            try:
                await scenario(stores)
            finally:
                stores.close()

        asyncio.run(inside())

    return run


def body(identity: str, previous: str | None = None, text: str = "", **fields: Any) -> dict[str, Any]:
    output = [{"id": f"msg_{identity}", "type": "message", "content": text}]
    response = {"id": identity, "status": "completed", "previous_response_id": previous, "output": output}
    return {**response, "error": None, "background": False, **fields}


def begun(identity: str, **fields: Any) -> dict[str, Any]:
    return body(identity, status="in_progress", output=[], **fields)


def inputs(identity: str) -> list[Item]:
    return [{"id": f"in_{identity}", "type": "message", "role": "user", "content": identity}]


def ids(items: list[Item]) -> list[str]:
    return [item["id"] for item in items]


async def found(store: ResponseStore, identity: str) -> bool:
    try:
        await store.get(identity, "")
    except NotFound:
        return False
    return True


def test_a_conversation_is_all_that_its_last_response_builds_on(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make()
        for identity, previous in (("a", None), ("b", "a"), ("x", "a"), ("c", "b")):
            store.put(body(identity, previous), inputs(identity), "")
        assert ids(await store.conversation("c", "")) == ["in_a", "msg_a", "in_b", "msg_b", "in_c", "msg_c"]
        assert await store.get("b", "") == body("b", "a")
        await store.delete("a", "")
        for identity, why in (("c", "any more"), ("none", "is not kept here")):
            with pytest.raises(InvalidRequest, match=why) as caught:
                await store.conversation(identity, "")
            assert caught.value.param == "previous_response_id"
            assert caught.value.code == "previous_response_not_found"
        for lookup in (store.get("a", ""), store.delete("a", "")):
            with pytest.raises(NotFound):
                await lookup

    play(scenario)


def test_a_later_state_takes_the_place_of_an_older_one(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make()
        for number in range(20):
            store.put(begun(f"a{number}"), inputs("a"), "")
            store.put(body(f"a{number}", text="done"), inputs("a"), "")
        for number in range(20):
            assert await store.get(f"a{number}", "") == body(f"a{number}", text="done")
        assert ids((await store.inputs("a0", "", after=None, limit=10, order="asc")).items) == ["in_a"]

    play(scenario)


def test_a_response_that_is_not_done_can_not_be_built_on(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        one, other = stores.make(), stores.make()
        await one.save(begun("a"), inputs("a"), "")
        assert await one.get("a", "") == begun("a")
        with pytest.raises(InvalidRequest, match="isn't done yet"):
            await one.conversation("a", "")
        one.put(body("a"), inputs("a"), "")
        await one.settled()
        assert ids(await other.conversation("a", "")) == ["in_a", "msg_a"]

    play(scenario)


def test_input_items_come_in_pages(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make()
        await store.save(body("a"), [{**inputs("a")[0], "id": f"in_{number}"} for number in range(5)], "")
        first = await store.inputs("a", "", after=None, limit=2, order="desc")
        assert (ids(first.items), first.has_more) == (["in_4", "in_3"], True)
        rest = await store.inputs("a", "", after="in_1", limit=9, order="asc")
        assert (ids(rest.items), rest.has_more) == (["in_2", "in_3", "in_4"], False)
        with pytest.raises(InvalidRequest):
            await store.inputs("a", "", after="none", limit=9, order="asc")

    play(scenario)


def test_the_least_recently_used_go_first(play: Play) -> None:
    """A conversation that goes on stays whole, however old its beginning is."""

    async def scenario(stores: Stores) -> None:
        store = stores.make(megabytes=1)
        store.put(body("first"), inputs("first"), "")
        store.put(body("second", "first"), inputs("second"), "")
        await store.settled()
        for number in range(60):
            stores.age(0.5)
            store.put(body(f"r{number}", text="x" * 50_000), inputs("r"), "")
            await store.conversation("second", "")
        assert not await found(store, "r0")
        assert (await store.get("r59", ""))["output"][0]["content"] == "x" * 50_000
        kept = sum([await found(store, f"r{number}") for number in range(60)])
        assert 10 <= kept <= 20, "a megabyte of them"

    play(scenario)


def test_unused_objects_expire(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make(megabytes=1, days=1)
        await store.save(body("old"), [], "")
        await store.save(body("used"), [], "")
        conversation = (await store.conversations.create([], {}, ""))["id"]
        for _ in range(2):
            stores.age(20)
            assert await found(store, "used")
        await store.save(body("new", text="x" * 50_000), [], "")
        assert await found(store, "used")
        assert not await found(store, "old")
        with pytest.raises(NotFound):
            await store.conversations.get(conversation, "")

    play(scenario)


def test_one_callers_large_responses_push_out_their_own(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make(megabytes=1)
        for number in range(5):
            store.put(body(f"small{number}", text="x" * 1000), inputs("s"), "", "address:10.0.0.1")
        for number in range(60):
            store.put(body(f"large{number}", text="x" * 60_000), inputs("l"), "", "address:10.0.0.2")
            await store.settled()
        assert all([await found(store, f"small{number}") for number in range(5)])
        assert not await found(store, "large0")
        assert await found(store, "large59")

    play(scenario)


def test_one_object_can_not_take_the_whole_store(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make(megabytes=1)
        with pytest.raises(InvalidRequest, match="more than the 125000") as caught:
            await store.save(body("a", text="x" * 130_000), inputs("a"), "")
        assert caught.value.param == "store"
        made = await store.conversations.create([], {}, "")
        with pytest.raises(InvalidRequest, match="more than the 125000"):
            await store.conversations.add(made["id"], "", [{"id": "m", "type": "message", "content": "x" * 130_000}])
        assert await store.conversations.items(made["id"], "") == []

    play(scenario)


def test_several_servers_answer_from_one_store(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        one, other = stores.make(), stores.make()
        for number in range(20):
            one.put(body(f"a{number}"), [], "")
            other.put(body(f"b{number}"), [], "")
        await one.settled()
        await other.settled()
        assert await one.get("b0", "") == body("b0")
        assert await other.get("a19", "") == body("a19")

    play(scenario)


def test_objects_of_another_key_are_not_found(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        store = stores.make()
        await store.save(body("a"), inputs("a"), "k1")
        made = (await store.conversations.create(inputs("x"), {"a": "b"}, "k1"))["id"]
        conversations = store.conversations
        for owner in ("", "k2"):
            lookups: list[Awaitable[object]] = [
                store.get("a", owner),
                store.delete("a", owner),
                store.inputs("a", owner, after=None, limit=1, order="asc"),
                conversations.get(made, owner),
                conversations.update(made, owner, {}),
                conversations.items(made, owner),
                conversations.page(made, owner, after=None, limit=1, order="asc"),
                conversations.add(made, owner, inputs("y")),
                conversations.item(made, owner, "in_x"),
                conversations.remove(made, owner, "in_x"),
                conversations.delete(made, owner),
            ]
            for lookup in lookups:
                with pytest.raises(NotFound):
                    await lookup
            with pytest.raises(InvalidRequest):
                await store.conversation("a", owner)
            assert await store.outputs(["msg_a"], owner) == {}
            await store.cancel("a", owner)
        assert await store.outputs(["msg_a", "msg_none"], "k1") == {"msg_a": body("a")["output"][0]}
        assert (await conversations.get(made, "k1"))["metadata"] == {"a": "b"}
        assert await store.get("a", "k1") == body("a")

    play(scenario)


def test_conversations_keep_their_items_in_order(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        one, other = (store.conversations for store in (stores.make(), stores.make()))
        made = (await one.create(inputs("a"), {}, ""))["id"]
        for number in range(10):
            one.append(made, "", inputs(f"{number}"))
        await stores_settled(stores)
        assert ids(await other.items(made, "")) == ["in_a", *(f"in_{number}" for number in range(10))]
        (again,) = await other.add(made, "", inputs("a"))
        assert again["id"] != "in_a", "the conversation has that id"
        await other.remove(made, "", "in_a")
        with pytest.raises(NotFound, match="no item"):
            await one.item(made, "", "in_a")
        with pytest.raises(NotFound, match="no item"):
            await one.remove(made, "", "in_a")
        page = await one.page(made, "", after=None, limit=2, order="desc")
        assert (ids(page.items), page.has_more) == ([again["id"], "in_9"], True)
        assert (await one.update(made, "", {"k": "v"}))["metadata"] == {"k": "v"}
        assert (await other.get(made, ""))["metadata"] == {"k": "v"}
        await one.delete(made, "")
        other.append(made, "", inputs("late"))
        with pytest.raises(NotFound):
            await one.items(made, "")

    async def stores_settled(stores: Stores) -> None:
        for store in stores.made:
            await store.settled()

    play(scenario)


def test_servers_that_append_at_the_same_time_lose_nothing(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        one, other = stores.make(), stores.make()
        made = (await one.conversations.create([], {}, ""))["id"]
        adds = [
            store.conversations.add(made, "", inputs(f"{name}{number}"))
            for number in range(8)
            for name, store in (("a", one), ("b", other))
        ]
        await asyncio.gather(*adds)
        expected = {f"in_{name}{number}" for name in "ab" for number in range(8)}
        assert set(ids(await one.conversations.items(made, ""))) == expected

    play(scenario)


def test_the_events_of_a_response_in_the_background_are_stored(play: Play) -> None:
    async def scenario(stores: Stores) -> None:
        one, other = stores.make(), stores.make()
        await one.save(begun("a", background=True), inputs("a"), "")
        pieces = [b"event: n\ndata: %d\n\n" % number for number in range(50)]
        one.put_end(body("a", background=True), inputs("a"), "", "", Recording(pieces, closed=True))
        await one.settled()
        for store in (one, other):
            response = await store.get("a", "")
            recording = await store.recording(response, 0)
            assert recording is not None
            assert (recording.pieces, recording.closed) == (pieces, True)
        await other.delete("a", "")
        assert not await found(one, "a")
        await one.save(body("plain"), inputs("a"), "")
        assert await one.recording(await one.get("plain", ""), 0) is None

    play(scenario)
