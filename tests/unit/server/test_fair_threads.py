"""Work on threads: few at a time, and callers take turns."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tailrace.server.fair_threads import FairThreads


def test_callers_take_turns_and_no_more_run_than_allowed() -> None:
    order: list[str] = []
    running: list[int] = [0, 0]
    lock = threading.Lock()

    def work(name: str) -> None:
        with lock:
            order.append(name)
            running[0] += 1
            running[1] = max(running)
        with lock:
            running[0] -= 1

    async def scene() -> None:
        threads = FairThreads(1)
        hold = threading.Event()
        first = asyncio.create_task(threads.run("greedy", hold.wait))
        await asyncio.sleep(0)
        greedy = [asyncio.create_task(threads.run("greedy", lambda: work("greedy"))) for _ in range(5)]
        await asyncio.sleep(0)
        other = [asyncio.create_task(threads.run(name, lambda name=name: work(name))) for name in ("a", "b")]  # type: ignore[misc]  # a default holds the name
        await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(first, *greedy, *other)

    asyncio.run(scene())
    assert order == ["greedy", "a", "b", "greedy", "greedy", "greedy", "greedy"]
    assert running == [0, 1]


def test_a_cancelled_turn_is_passed_on() -> None:
    async def scene() -> None:
        threads = FairThreads(1)
        hold = threading.Event()
        first = asyncio.create_task(threads.run("a", hold.wait))
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(threads.run("a", lambda: None))
        waiting = asyncio.create_task(threads.run("b", lambda: 7))
        await asyncio.sleep(0)
        cancelled.cancel()
        hold.set()
        await first
        assert await asyncio.wait_for(waiting, 30) == 7
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await asyncio.wait_for(threads.run("c", lambda: 8), 30) == 8

    asyncio.run(scene())


def test_an_exception_frees_the_thread() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def scene() -> None:
        threads = FairThreads(1)
        with pytest.raises(ZeroDivisionError):
            await threads.run("a", fail)
        assert await threads.run("a", lambda: 7) == 7

    asyncio.run(scene())
