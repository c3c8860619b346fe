"""Keys in PostgreSQL: their changes, and limits that hold for all servers together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from postgres_server import PostgresServer, postgres_server
from tailrace.errors import ConfigurationError, StorageUnavailable, TailraceError, TooManyRequests, Unauthorized
from tailrace.server.keys.allowance import Place
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.keys.keys_file import KeyRecord, new_key
from tailrace.server.keys.limit_headers import limit_headers
from tailrace.server.keys.postgres_keys import PostgresKeys
from tailrace.settings import Settings

CREATED = datetime(2030, 1, 1, tzinfo=UTC)


class Cluster:
    """Several servers' rings on one database, and the commands that change its keys."""

    def __init__(self, address: str) -> None:
        self.commands = PostgresKeys(address)
        self.rings = [KeyRing(Settings(keys_store=address, api_key="s3cret")) for _ in range(3)]
        self.keys: dict[str, str] = {}

    def add(self, name: str, **limits: Any) -> None:
        """Make a key."""
        key, record = new_key(KeyRecord(name=name, id="", sha256="", created=CREATED, **limits))
        self.commands.add(record)
        self.keys[name] = key

    async def known(self, name: str, *, known: bool = True) -> None:
        """Return when all servers know the key, or don't know it any more."""
        deadline = time.monotonic() + 30
        while not all(self.knows(server, name) is known for server in range(len(self.rings))):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    def knows(self, server: int, name: str) -> bool:
        try:
            return self.authenticate(server, name) == name
        except (Unauthorized, StorageUnavailable):
            return False

    def authenticate(self, server: int, name: str) -> str | None:
        found = self.rings[server].authenticate({b"x-api-key": self.keys[name].encode()})
        return None if found is None else found.name

    def place(self, server: int, name: str) -> Place:
        """A place for one more request."""
        found = self.rings[server].authenticate({b"x-api-key": self.keys[name].encode()})
        assert found is not None
        return Place(found.allowance)

    async def begin(self, server: int, name: str, tokens: int = 0) -> Place | None:
        """A request begins, with so many prompt tokens; None where it is refused."""
        place = self.place(server, name)
        try:
            place.enter()
            charged = await place.begin(tokens)
        except TooManyRequests:
            place.release()
            return None
        place.allowance.charge(tokens - charged)
        return place


def play(address: str, scenario: Callable[[Cluster], Awaitable[None]]) -> None:
    async def inside() -> None:
        cluster = Cluster(address)
        for ring in cluster.rings:
            ring.start()
        try:
            await scenario(cluster)
        finally:
            for ring in cluster.rings:
                ring.close()

    asyncio.run(inside())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look twenty times a second."""
    monkeypatch.setattr("tailrace.server.keys.shared_keys._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("tailrace.server.keys.shared_keys._UNLIMITED_SECONDS", 0.1)
    monkeypatch.setattr("tailrace.server.keys.shared_allowance._REFUSED_SECONDS", 0.0)


def test_every_server_follows_the_keys(postgres: PostgresServer) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert all(ring.required for ring in cluster.rings), "also before there is a key"
        with pytest.raises(Unauthorized):
            cluster.rings[0].authenticate({})
        cluster.add("alice", models=("a*",), expires=CREATED + timedelta(days=9))
        await cluster.known("alice")
        with pytest.raises(ConfigurationError, match="'alice' already"):
            cluster.add("alice")
        cluster.add("bob")
        await cluster.known("bob")
        assert [record.name for record in cluster.commands.read()] == ["alice", "bob"]
        assert cluster.commands.read()[0].models == ("a*",)
        assert cluster.commands.remove("alice") == 1
        await cluster.known("alice", known=False)
        with pytest.raises(ConfigurationError, match="no key 'alice' in the database of keys_store"):
            cluster.commands.remove("alice")
        default = cluster.rings[0].authenticate({b"x-api-key": b"s3cret"})
        assert default is not None
        assert default.name == "default"

    play(postgres.database(), scenario)


def test_exactly_the_allowed_requests_run_at_the_same_time(postgres: PostgresServer) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.add("narrow", concurrency=5)
        await cluster.known("narrow")
        for _ in range(3):
            begun = await asyncio.gather(*(cluster.begin(number % 3, "narrow") for number in range(21)))
            places = [place for place in begun if place is not None]
            assert len(places) == 5
            # Each end makes room for one, on any server.
            for number, place in enumerate(places):
                place.release()
                places[number] = await begins(cluster, (number + 1) % 3, "narrow")
                assert await cluster.begin(number % 3, "narrow") is None
            for place in places:
                place.release()
            await begins_all(cluster)

    async def begins_all(cluster: Cluster) -> None:
        """Return when no place is taken any more."""
        while int(postgres.sql("SELECT coalesce(sum(running), 0) FROM tailrace_key_places", address)):
            await asyncio.sleep(0.01)

    address = postgres.database()
    play(address, scenario)


async def begins(cluster: Cluster, server: int, name: str) -> Place:
    deadline = time.monotonic() + 30
    while (place := await cluster.begin(server, name)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return place


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_prompts_of_all_servers_together_stay_within_the_limit(postgres: PostgresServer, limit: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        # A minute's tokens come back: 1 in 6 s at 10 a minute, and none of the prompts of 3,000 tokens fits then.
        cluster.add("poor", **{limit: 10_000})
        await cluster.known("poor")
        begun = await asyncio.gather(*(cluster.begin(number % 3, "poor", 3000) for number in range(12)))
        assert sum(place is not None for place in begun) == 3
        place = cluster.place(0, "poor")
        place.enter()
        with pytest.raises(TooManyRequests, match=r"10000 tokens a (minute|day)") as caught:
            await place.begin(9000)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 20
        shown = dict(limit_headers(place.allowance, "openai"))
        assert 1000 <= int(shown[b"x-ratelimit-remaining-tokens"]) < 3000

    play(postgres.database(), scenario)


def test_tokens_of_replies_are_known_to_other_servers(postgres: PostgresServer) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.add("poor", tokens_per_day=1000)
        cluster.add("rich")
        await cluster.known("rich")
        first = await cluster.begin(0, "poor", 100)
        rich = await cluster.begin(0, "rich", 7)
        assert first is not None
        assert rich is not None
        first.allowance.charge(850)
        deadline = time.monotonic() + 30
        while (later := await cluster.begin(1, "poor", 60)) is not None:
            later.release()
            later.allowance.charge(-60)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        while not cluster.commands.used_today().get(rich.allowance.record.id):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        used = cluster.commands.used_today()
        assert used[first.allowance.record.id] >= 950
        assert used[rich.allowance.record.id] == 7

    play(postgres.database(), scenario)


def test_places_of_a_dead_server_are_free_again(postgres: PostgresServer) -> None:
    address = postgres.database()

    async def scenario(cluster: Cluster) -> None:
        cluster.add("narrow", concurrency=1)
        await cluster.known("narrow")
        assert await cluster.begin(0, "narrow") is not None
        assert await cluster.begin(1, "narrow") is None
        shared = cluster.rings[0]._shared
        assert shared is not None
        assert shared._task is not None
        shared._task.cancel()  # It renews its lease no more.
        postgres.sql("UPDATE tailrace_processes SET expires = now() - interval '1 second'", address)
        assert await begins(cluster, 1, "narrow") is not None

    play(address, scenario)


def test_a_key_without_limits_asks_nothing(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.add("free")
        await cluster.known("free")

        async def ask(*_: object) -> None:
            raise AssertionError

        for ring in cluster.rings:
            assert ring._shared is not None
            monkeypatch.setattr(ring._shared, "_ask", ask)
        place = await cluster.begin(0, "free", 10)
        assert place is not None
        place.release()

    play(postgres.database(), scenario)


def test_without_postgresql_known_keys_go_on_with_each_servers_own_limits() -> None:
    with postgres_server() as postgres:
        address = postgres.database()

        async def scenario(cluster: Cluster) -> None:
            cluster.add("narrow", concurrency=2, tokens_per_day=1000)
            await cluster.known("narrow")
            running = await cluster.begin(0, "narrow", 100)
            assert running is not None
            postgres.stop()
            late = await cluster.begin(0, "narrow", 200)
            assert late is not None
            assert await cluster.begin(0, "narrow", 10) is None, "this server counts by itself"
            fresh = KeyRing(Settings(keys_store=address))
            fresh.start()
            with pytest.raises(StorageUnavailable, match="can't read its API keys yet"):
                fresh.authenticate({b"x-api-key": cluster.keys["narrow"].encode()})
            with pytest.raises(Unauthorized):
                fresh.authenticate({})
            with pytest.raises(TailraceError, match="the database of keys_store can't be used"):
                cluster.commands.read()
            fresh.close()
            postgres.start()
            deadline = time.monotonic() + 30
            identity = running.allowance.record.id
            while cluster.commands.used_today().get(identity) != 300:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            assert await cluster.begin(1, "narrow") is None, "both requests are counted"
            running.release()
            late.release()
            (await begins(cluster, 1, "narrow")).release()

        play(address, scenario)
