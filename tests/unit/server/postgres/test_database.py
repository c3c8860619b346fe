"""The pool: calls in threads, time limits, and a PostgreSQL that goes and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import pytest

from postgres_server import PASSWORD, PostgresServer, postgres_server
from servers import wait_for
from tailrace.errors import StorageUnavailable
from tailrace.server.postgres import database as database_module
from tailrace.server.postgres.connection import Connection, DatabaseFailure
from tailrace.server.postgres.database import Database


def pool(address: str, changes: Mapping[str, Sequence[str]]) -> Database:
    """A pool of two connections, and tables."""
    database = Database(address, name="test", connections=2)
    for part, steps in changes.items():
        database.use(part, steps)
    return database


def play(
    address: str, scenario: Callable[[Database], Awaitable[None]], changes: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Runs a scenario with a pool."""

    async def inside() -> None:
        database = pool(address, changes or {})
        try:
            await scenario(database)
        finally:
            database.close()

    asyncio.run(inside())


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    with postgres_server() as server:
        yield server


_OURS = "FROM pg_stat_activity WHERE application_name = 'tailrace'"


def pids(connection: Connection) -> int:
    return int(connection.rows("SELECT pg_backend_pid()")[0][0])


def test_calls_share_a_bounded_number_of_connections(postgres: PostgresServer) -> None:
    async def scenario(database: Database) -> None:
        def slow(connection: Connection) -> int:
            connection.rows("SELECT pg_sleep(0.02)")
            return pids(connection)

        found = await asyncio.gather(*(database.run(slow) for _ in range(8)))
        assert len(set(found)) == 2

    play(postgres.database(), scenario)


def test_no_call_holds_the_event_loop(postgres: PostgresServer) -> None:
    async def scenario(database: Database) -> None:
        loop_thread = threading.get_ident()
        ticks = 0

        def work(connection: Connection) -> int:
            connection.rows("SELECT pg_sleep(0.2)")
            return threading.get_ident()

        call = asyncio.create_task(database.run(work))
        while not call.done():
            ticks += 1
            await asyncio.sleep(0.01)
        assert await call != loop_thread
        assert ticks > 3

    play(postgres.database(), scenario)


def test_tables_are_made_once_by_servers_that_start_together(postgres: PostgresServer) -> None:
    address = postgres.database()
    changes = {"things": ("CREATE TABLE things (n INTEGER)", "ALTER TABLE things ADD COLUMN m INTEGER")}

    async def scenario(_: Database) -> None:
        pools = [pool(address, changes) for _ in range(4)]
        await asyncio.gather(*(one.run(lambda c: c.rows("SELECT m FROM things")) for one in pools))
        for one in pools:
            one.close()

    play(address, scenario)
    assert postgres.sql("SELECT version FROM tailrace_versions", address) == "2"


def test_tables_of_a_newer_version_are_not_touched(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    address = postgres.database()

    async def made(database: Database) -> None:
        await database.run(pids)

    async def refused(database: Database) -> None:
        with pytest.raises(StorageUnavailable):
            await database.run(pids)
        assert not database.is_gone(), "it can be reached"

    play(address, made, {"things": ("CREATE TABLE things (n INTEGER)", "CREATE TABLE others (n INTEGER)")})
    play(address, refused, {"things": ("CREATE TABLE things (n INTEGER)",)})
    assert "of another version of tailrace" in capsys.readouterr().out


def test_a_failed_change_changes_nothing(postgres: PostgresServer) -> None:
    address = postgres.database()

    async def scenario(database: Database) -> None:
        with pytest.raises(StorageUnavailable):
            await database.run(pids)

    play(address, scenario, {"things": ("CREATE TABLE things (n INTEGER)", "no SQL")})
    assert postgres.sql("SELECT to_regclass('things') IS NULL", address) == "True"


def test_it_comes_back_by_itself_and_calls_fail_at_once_meanwhile(
    own: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(database: Database) -> None:
        await asyncio.gather(database.run(pids), database.run(pids))
        own.stop()
        with pytest.raises(StorageUnavailable, match="its log says why"):
            await database.run(pids)
        assert database.is_gone()
        with pytest.raises(DatabaseFailure):
            database.submit(pids).result(0)
        own.start()
        deadline = time.monotonic() + 30
        while database.is_gone():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await asyncio.gather(*(database.run(pids) for _ in range(4)))

    play(own.database(), scenario)
    logged = capsys.readouterr().out
    assert logged.count("PostgreSQL can't be reached") == 1
    assert logged.count("PostgreSQL is back") == 1
    assert PASSWORD not in logged


def test_a_connection_that_was_closed_while_idle_fails_no_call(own: PostgresServer) -> None:
    async def scenario(database: Database) -> None:
        await database.run(pids)
        own.sql(f"SELECT pg_terminate_backend(pid) {_OURS}")
        wait_for("the end of its connection", lambda: own.sql(f"SELECT count(*) {_OURS}") == "0")
        await database.run(pids)

    play(own.database(), scenario)


def test_a_server_that_does_not_answer_is_left(own: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel takes what is sent, so no timeout of TCP notices it."""
    monkeypatch.setattr(database_module, "LIMIT_SECONDS", 0.5)

    async def scenario(database: Database) -> None:
        backend = await database.run(pids)
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(StorageUnavailable):
                await database.run(pids)
        finally:
            os.kill(backend, signal.SIGCONT)
        deadline = time.monotonic() + 30
        while database.is_gone():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert await database.run(pids) != backend

    play(own.database(), scenario)


def test_a_statement_has_a_time_limit(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.server.postgres.connection.STATEMENT_SECONDS", 0.2)

    async def scenario(database: Database) -> None:
        backend = await database.run(pids)
        with pytest.raises(StorageUnavailable):
            await database.run(lambda connection: connection.rows("SELECT pg_sleep(60)"))
        assert not database.is_gone()
        assert await database.run(pids) == backend, "the connection goes on"

    play(postgres.database(), scenario)


def test_what_was_submitted_is_done_before_it_closes(postgres: PostgresServer) -> None:
    address = postgres.database()
    changes = {"things": ("CREATE TABLE things (n INTEGER)",)}
    database = pool(address, changes)

    def insert(connection: Connection) -> int:
        return connection.count("INSERT INTO things VALUES (1)")

    for _ in range(20):
        database.submit(insert)
    database.close(insert)
    assert postgres.sql("SELECT count(*) FROM things", address) == "21"
