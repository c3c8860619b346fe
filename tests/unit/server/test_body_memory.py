"""The memory that all request bodies share: who waits, who goes on, and who is refused."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tailrace.errors import InvalidRequest, RequestError, ServerBusy
from tailrace.server.body_memory import SMALL, BodyLease, BodyMemory
from tailrace.server.content_encoding import BodyDecoder

LARGE = 4 * SMALL


def lease(memory: BodyMemory, size: int, errors: list[RequestError] | None = None) -> BodyLease:
    made = memory.lease((errors if errors is not None else []).append)
    made.grow(size)
    return made


async def waits(body: BodyLease) -> bool:
    """Whether the body has to wait. Ends the wait."""
    task = asyncio.ensure_future(body.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return not done


def test_one_body_may_go_beyond_the_limit_and_the_others_wait_until_it_has_gone() -> None:
    async def run() -> None:
        memory = BodyMemory(2 * LARGE, 30.0)
        first, second, third = (lease(memory, LARGE) for _ in range(3))
        assert first.must_wait
        assert not await waits(first)
        assert await waits(second)
        waiting = [asyncio.ensure_future(body.wait()) for body in (second, third)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        first.release()
        await asyncio.wait_for(asyncio.gather(*waiting), 20.0)
        assert memory.held == 2 * LARGE
        second.release()
        third.release()
        third.release()
        assert memory.held == 0

    asyncio.run(run())


def test_small_bodies_never_wait() -> None:
    async def run() -> None:
        memory = BodyMemory(LARGE, 30.0)
        lease(memory, 2 * LARGE)
        small = lease(memory, SMALL)
        assert not small.must_wait
        assert not await waits(small)

    asyncio.run(run())


def test_a_body_that_waits_too_long_is_refused() -> None:
    async def run() -> None:
        memory = BodyMemory(LARGE, 0.01)
        first, second = lease(memory, LARGE), lease(memory, LARGE)
        await first.wait()
        with pytest.raises(ServerBusy) as refused:
            await second.wait()
        assert refused.value.headers == {"retry-after": "2"}

    asyncio.run(run())


def test_a_body_that_stands_still_while_others_wait_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        memory = BodyMemory(LARGE, 30.0)
        errors: list[RequestError] = []
        stale, other = lease(memory, LARGE, errors), lease(memory, LARGE, errors)
        await stale.wait()
        memory.tick()
        monkeypatch.setattr("tailrace.server.body_memory._STALE_SECONDS", -1.0)
        memory.tick()
        assert errors == [], "nothing waits"
        task = asyncio.ensure_future(other.wait())
        await asyncio.sleep(0)
        memory.tick()
        (error,) = errors
        assert isinstance(error, ServerBusy)
        stale.release()
        await asyncio.wait_for(task, 20.0)

    asyncio.run(run())


def test_a_body_of_empty_gzip_members_lets_others_have_their_turn_and_ends() -> None:
    """Each member takes time and gives nothing, so the size of what is decoded doesn't bound it."""
    empty = gzip.compress(b"")
    decoder = BodyDecoder("gzip")
    pieces = list(decoder.feed(empty * 500))
    assert len(pieces) == 500
    assert b"".join(pieces) == b""
    with pytest.raises(InvalidRequest, match="parts"):
        list(BodyDecoder("gzip").feed(empty * 10_001))
