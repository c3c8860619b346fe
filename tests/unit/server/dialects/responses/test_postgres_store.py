"""What PostgreSQL adds to the store of responses: one end, whichever server gives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from held_generation import HeldGeneration
from postgres_server import PostgresServer, postgres_server
from tailrace.errors import InternalError
from tailrace.server.dialects.responses.background import Background
from tailrace.server.dialects.responses.event_recording import Recording
from tailrace.server.dialects.responses.followed_recording import FollowedRecording
from tailrace.server.dialects.responses.postgres_store import PostgresResponseStore, Progress
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.response_object import ResponseHead
from tailrace.server.dialects.responses.shared_background import SharedBackground
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.tools import Toolset
from tailrace.server.events import TextDelta
from tailrace.server.generation import Generation
from tailrace.server.postgres import process_lease
from tailrace.server.postgres.connection import DatabaseFailure
from tailrace.server.postgres.database import Database
from tailrace.server.postgres.process_lease import ProcessLease

Scenario = Callable[[PostgresResponseStore, PostgresResponseStore], Awaitable[None]]


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def play(address: str, scenario: Scenario) -> None:
    """Runs a scenario with the stores of two servers."""

    async def inside() -> None:
        pools = [Database(address, name="responses", connections=2) for _ in range(2)]
        try:
            await scenario(*(PostgresResponseStore(pool, megabytes=10, days=30) for pool in pools))
        finally:
            for pool in pools:
                pool.close()

    asyncio.run(inside())


def body(identity: str, status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    response: dict[str, Any] = {
        "id": identity,
        "status": status,
        "previous_response_id": None,
        "output": [],
        "error": None,
    }
    return {**response, "background": True, **fields}


def die(postgres: PostgresServer, address: str, store: PostgresResponseStore) -> None:
    """The store's server hasn't renewed its lease for long."""
    statement = "UPDATE tailrace_processes SET expires = now() - interval '1 second' WHERE number = {}"
    postgres.sql(statement.format(store.lease.number), address)


async def watch(store: PostgresResponseStore, clock: Clock) -> None:
    """The store's server renews its own lease for long enough to judge others."""
    store.lease = ProcessLease(clock)
    for _ in range(4):
        await store.exchange({})
        clock.now += process_lease.RENEW_SECONDS


def test_a_response_of_a_dead_server_fails_once(postgres: PostgresServer) -> None:
    address = postgres.database()

    async def scenario(dead: PostgresResponseStore, other: PostgresResponseStore) -> None:
        await dead.save(body("a"), [], "")
        await dead.save(body("b"), [], "")
        await dead.save(body("done", "completed"), [], "")
        await watch(other, Clock())
        assert await other.fail_abandoned() == 0, "its server lives"
        die(postgres, address, dead)
        assert await other.fail_abandoned() == 2
        assert await other.fail_abandoned() == 0
        failed = await other.get("a", "")
        assert failed["status"] == "failed"
        assert failed["error"]["message"] == "The server was stopped before the response was done."
        assert (await other.get("done", ""))["status"] == "completed"
        # It wasn't dead: its own end comes second, and changes nothing.
        dead.put(body("a", "completed"), [], "")
        dead.put_end(body("b", "completed"), [], "", "", Recording([b"x\n\n"], closed=True))
        await dead.settled()
        for identity in ("a", "b"):
            assert (await other.get(identity, ""))["status"] == "failed"
        assert postgres.sql("SELECT count(*) FROM tailrace_events", address) == "0"

    play(address, scenario)


def test_an_end_comes_before_a_judgement(postgres: PostgresServer) -> None:
    address = postgres.database()

    async def scenario(slow: PostgresResponseStore, other: PostgresResponseStore) -> None:
        await slow.save(body("a"), [], "")
        await watch(other, Clock())
        die(postgres, address, slow)
        slow.put(body("a", "completed"), [], "")
        await slow.settled()
        assert await other.fail_abandoned() == 0
        assert (await other.get("a", ""))["status"] == "completed"

    play(address, scenario)


def test_after_an_outage_every_server_may_renew_before_others_are_judged(postgres: PostgresServer) -> None:
    address = postgres.database()

    async def scenario(one: PostgresResponseStore, other: PostgresResponseStore) -> None:
        clock = Clock()
        await one.save(body("a"), [], "")
        await watch(other, clock)
        clock.now += 60  # PostgreSQL was gone: neither could renew.
        die(postgres, address, one)
        assert await other.fail_abandoned() == 0, "it hasn't renewed its own"
        await other.exchange({})
        assert await other.fail_abandoned() == 0, "the others may be about to renew theirs"
        await one.exchange({})
        for _ in range(4):
            clock.now += process_lease.RENEW_SECONDS
            await other.exchange({})
        assert await other.fail_abandoned() == 0, "it has renewed its lease"
        assert (await one.get("a", ""))["status"] == "in_progress"

    play(address, scenario)


def test_an_end_that_can_not_be_stored_is_stored_later() -> None:
    with postgres_server() as postgres:

        async def scenario(store: PostgresResponseStore, other: PostgresResponseStore) -> None:
            await store.save(body("a"), [], "")
            postgres.stop()
            store.put_end(body("a", "completed"), [], "", "", Recording([b"x\n\n"], closed=True))
            await store.settled()
            with pytest.raises(DatabaseFailure):
                await store.try_again()
            postgres.start()
            deadline = time.monotonic() + 30
            while True:
                assert time.monotonic() < deadline
                try:
                    await store.try_again()
                    break
                except DatabaseFailure:
                    await asyncio.sleep(0.05)
            response = await other.get("a", "")
            assert response["status"] == "completed"
            recording = await other.recording(response, 0)
            assert recording is not None
            assert recording.pieces == [b"x\n\n"]

        play(postgres.database(), scenario)


def test_an_end_that_is_too_large_makes_the_response_failed(postgres: PostgresServer) -> None:
    async def scenario(store: PostgresResponseStore, other: PostgresResponseStore) -> None:
        await store.save(body("a"), [], "")
        store.put(body("a", "completed", output=[{"id": "m", "text": "x" * 2_000_000}]), [], "")
        await store.settled()
        await store.try_again()
        failed = await other.get("a", "")
        assert (failed["status"], failed["error"]["message"]) == ("failed", "The response's end could not be stored.")

    play(postgres.database(), scenario)


def test_another_servers_events_are_followed_as_they_come(postgres: PostgresServer) -> None:
    pieces = [b"event: n\ndata: %d\n\n" % number for number in range(9)]

    async def scenario(one: PostgresResponseStore, other: PostgresResponseStore) -> None:
        await one.save(body("a"), [], "")
        response = await other.get("a", "")
        recording = await other.recording(response, 0)
        assert isinstance(recording, FollowedRecording)
        assert (recording.pieces, recording.closed) == ([], False)
        # The second exchange repeats what the first has stored: its answer was lost.
        for first, until in ((0, 2), (0, 4), (4, 5)):
            await one.exchange({"a": Progress(first, pieces[first:until])})
            await recording.changed()
            assert recording.pieces == pieces[:until]
        one.put_end(body("a", "completed"), [], "", "", Recording(pieces, closed=True))
        while not recording.closed:
            await recording.changed()
        assert recording.pieces == pieces

    play(postgres.database(), scenario)


def test_a_cancel_that_its_server_does_not_carry_out_ends_the_response_all_the_same(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.server.dialects.responses.postgres_store._CANCEL_SECONDS", 0.1)

    async def scenario(stalled: PostgresResponseStore, other: PostgresResponseStore) -> None:
        await stalled.save(body("a"), [], "")
        await other.cancel("a", "")
        assert (await other.get("a", ""))["status"] == "cancelled"
        stalled.put(body("a", "completed"), [], "")
        await stalled.settled()
        assert (await other.get("a", ""))["status"] == "cancelled"

    play(postgres.database(), scenario)


@pytest.mark.parametrize("how", ["cancelled", "deleted", "failed"])
def test_the_loop_carries_out_what_other_servers_have_decided(postgres: PostgresServer, how: str) -> None:
    address = postgres.database()

    async def scenario(store: PostgresResponseStore, other: PostgresResponseStore) -> None:
        background, ends = Background(), list[dict[str, Any]]()
        head = ResponseHead(ResponsesRequest(input="x", background=True), Toolset(), "m", stored=True)
        stream = ResponsesStream(head, Toolset(), summary=False, encrypted=False, comments=True, ended=ends.append)
        await store.save(head.body("in_progress", []), [], "")
        generation = HeldGeneration()
        recording = background.run(
            head.id,
            "",
            cast(Generation, generation),
            stream,
            lambda recording: store.put_end(ends[-1], [], "", "", recording),
        )
        generation.sink.emit(TextDelta(0, "half"))
        loop = SharedBackground(background, store)
        loop.start()
        try:
            followed = await other.recording(await other.get(head.id, ""), 0)
            assert followed is not None
            while not any(b'"half"' in piece for piece in followed.pieces):
                await followed.changed()
            if how == "cancelled":
                await other.cancel(head.id, "")
            elif how == "deleted":
                postgres.sql("DELETE FROM tailrace_responses", address)
            else:
                postgres.sql("UPDATE tailrace_responses SET status = 'failed', error = 'why'", address)
            await generation.done
            while not recording.closed:
                await recording.changed()
            await store.settled()
            if how == "cancelled":
                cancelled = await other.get(head.id, "")
                assert cancelled["status"] == "cancelled"
                assert cancelled["output"][0]["content"][0]["text"] == "half"
            elif how == "failed":
                assert b"response.failed" in recording.pieces[-1]
                assert (await other.get(head.id, ""))["error"]["message"] == "why"
            while not followed.closed:
                await followed.changed()
        finally:
            loop.stop()

    play(address, scenario)


def test_a_defect_of_the_loop_does_not_end_it(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tailrace.server.dialects.responses.shared_background._EXCHANGE_SECONDS", 0.01)
    monkeypatch.setattr("tailrace.server.dialects.responses.shared_background.RENEW_SECONDS", 0.0)

    async def scenario(store: PostgresResponseStore, other: PostgresResponseStore) -> None:
        calls = 0
        enough = asyncio.Event()

        async def broken(running: object) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            if calls == 3:
                enough.set()
            raise InternalError("here")

        monkeypatch.setattr(store, "exchange", broken)
        loop = SharedBackground(Background(), store)
        loop.start()
        await asyncio.wait_for(enough.wait(), 30)
        loop.stop()

    play(postgres.database(), scenario)
    assert "hit a defect" in capsys.readouterr().out
