"""When memory is returned, and how much the event loop does for that."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tailrace.server.memory_trim import MemoryTrim


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def old_cycle() -> weakref.ref[_Cycle]:
    """A cycle that is garbage, but which only a full collection finds."""
    cycle = _Cycle()
    gc.collect(0)
    gc.collect(1)
    return weakref.ref(cycle)


def test_a_full_collection_waits_until_no_request_runs(old_cycle: weakref.ref[_Cycle]) -> None:
    async def scenario() -> None:
        trim = MemoryTrim()
        trim.request_ended(24_000_000)
        trim.tick(100.0, idle=False)
        assert old_cycle() is not None
        trim.tick(101.0, idle=True)
        assert old_cycle() is not None, "it is too soon"
        trim.tick(110.0, idle=True)
        assert old_cycle() is None

    asyncio.run(scenario())


def test_small_requests_cause_no_collection(old_cycle: weakref.ref[_Cycle]) -> None:
    async def scenario() -> None:
        trim = MemoryTrim()
        trim.request_ended(1_000)
        trim.tick(100.0, idle=True)
        assert old_cycle() is not None

    asyncio.run(scenario())
