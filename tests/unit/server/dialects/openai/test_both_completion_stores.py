"""What every store of chat completions does: SQLite's and PostgreSQL's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from postgres_server import PostgresServer
from tailrace.errors import InvalidRequest, NotFound
from tailrace.server.dialects.openai.completion_store import CompletionStore
from tailrace.server.dialects.openai.postgres_completions import PostgresCompletions
from tailrace.server.dialects.openai.sqlite_completions import SqliteCompletions
from tailrace.server.postgres.database import Database

Scenario = Callable[[CompletionStore, CompletionStore], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["sqlite", "postgres"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs a scenario with two stores of a megabyte over the same data."""

    def run(scenario: Scenario) -> None:
        async def inside() -> None:
            if request.param == "sqlite":
                files = [SqliteCompletions(tmp_path / "s", megabytes=1, days=1) for _ in range(2)]
                await scenario(*files)
                for store in files:
                    store.close()
                return
            server: PostgresServer = request.getfixturevalue("postgres")
            address = server.database()
            pools = [Database(address, name="completions", connections=2) for _ in range(2)]
            await scenario(*(PostgresCompletions(pool, megabytes=1, days=1) for pool in pools))
            for pool in pools:
                pool.close()

        asyncio.run(inside())

    return run


def messages(count: int) -> list[dict[str, Any]]:
    return [{"id": f"m{number}", "role": "user"} for number in range(count)]


def test_a_completion_is_found_changed_and_forgotten(play: Play) -> None:
    async def scenario(one: CompletionStore, other: CompletionStore) -> None:
        one.put({"id": "a", "metadata": {}}, messages(5), "k")
        await one.settled()
        assert await other.get("a", "k") == {"id": "a", "metadata": {}}
        assert await other.update("a", "k", {"x": "y"}) == {"id": "a", "metadata": {"x": "y"}}
        assert await one.get("a", "k") == {"id": "a", "metadata": {"x": "y"}}
        page = await other.messages("a", "k", after="m1", limit=2, order="asc")
        assert ([each["id"] for each in page.messages], page.has_more) == (["m2", "m3"], True)
        page = await other.messages("a", "k", after=None, limit=9, order="desc")
        assert ([each["id"] for each in page.messages], page.has_more) == (["m4", "m3", "m2", "m1", "m0"], False)
        with pytest.raises(InvalidRequest):
            await other.messages("a", "k", after="none", limit=2, order="asc")
        for owner in ("", "other"):
            for lookup in (
                one.get("a", owner),
                one.update("a", owner, {}),
                one.delete("a", owner),
                one.messages("a", owner, after=None, limit=1, order="asc"),
            ):
                with pytest.raises(NotFound):
                    await lookup
        await other.delete("a", "k")
        with pytest.raises(NotFound):
            await one.get("a", "k")

    play(scenario)


def test_the_least_recently_used_go_first(play: Play) -> None:
    async def scenario(one: CompletionStore, other: CompletionStore) -> None:
        await one.save({"id": "used"}, [], "")
        for number in range(60):
            await one.save({"id": f"c{number}", "text": "x" * 50_000}, [], "")
            await other.get("used", "")
        kept = 0
        for number in range(60):
            try:
                await one.get(f"c{number}", "")
                kept += 1
            except NotFound:
                assert kept == 0, "the oldest go first"
        assert 10 <= kept <= 20, "a megabyte of them"

    play(scenario)
