"""What a request charges to its key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tailrace.errors import TooManyRequests
from tailrace.server.keys.allowance import Allowance, Place
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.keys.token_charge import TokenCharge


def place(used: list[int], *, tokens_per_minute: int | None = None) -> Place:
    record = KeyRecord(
        name="a",
        id="1",
        sha256="0" * 64,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        tokens_per_minute=tokens_per_minute,
    )
    return Place(Allowance(record, lambda day, tokens: used.append(tokens)))


def test_new_tokens_are_charged_once_from_the_beginning_on() -> None:
    async def run() -> None:
        used: list[int] = []
        held = place(used)
        held.enter()
        charge = TokenCharge(held)
        charge.update(10)
        assert used == []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await charge.begin(10, done)
        for tokens in (10, 10, 14, 12):
            charge.update(tokens)
        assert used == [10, 4]
        held.release()  # The request has its response; its generation goes on.
        assert held.allowance.running == 1
        done.set_result(None)
        await asyncio.sleep(0)
        assert held.allowance.running == 0

    asyncio.run(run())


def test_a_request_with_more_tokens_than_are_left_charges_nothing() -> None:
    async def run() -> None:
        used: list[int] = []
        charge = TokenCharge(place(used, tokens_per_minute=5))
        with pytest.raises(TooManyRequests):
            await charge.begin(10, asyncio.get_running_loop().create_future())
        charge.update(10)
        assert used == []

    asyncio.run(run())


def test_a_request_without_a_key_charges_nothing() -> None:
    async def run() -> None:
        charge = TokenCharge(None)
        await charge.begin(10, asyncio.get_running_loop().create_future())
        charge.update(10)
        assert not charge.has_begun

    asyncio.run(run())
