"""Ten thousand broken requests on every route, and requests that are made to be expensive, beside a client's stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from canary import canary, percentile
from fault_figures import Record
from fuzz_inputs import requests, routes_of
from observed_requests import Outcome, idle, send, send_bytes
from openai_wire import ask
from request_bombs import BOMBS, Bomb
from server_memory import memory_bytes, open_files, settled
from servers import ServerProcess, serving, wait_for

#: Inputs of a batch, which are sent at once, and batches.
BATCH = 20
BATCHES = 500
#: Memory afterwards ÷ memory before.
MEMORY = 1.05
#: A stream's gaps beside an expensive request ÷ those beside an ordinary one.
GAPS = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    # A KV cache that has its size from the start, and no prefix states in host memory: what grows then isn't a cache.
    sizes = ("--ctx", "256", "--parallel", "8", "--kv-tokens", "2048", "--keep-mb", "0")
    with serving(*sizes, "--max-body-mb", "1") as started:
        yield started


def test_ten_thousand_broken_requests(server: ServerProcess, record: Record) -> None:
    """No 5xx but the documented 501, no crash, and nothing that stays."""
    routes = routes_of(ask(server.port, "GET", "/openapi.json").json())
    assert len(routes) > 40
    children = server.children("engine") + server.children("server")
    sent = 0
    before: list[tuple[int, int]] = []

    async def batch(inputs: list[bytes]) -> list[Outcome]:
        return await asyncio.gather(*(send_bytes(server.port, data, unfinished=True) for data in inputs))

    @settings(
        max_examples=BATCHES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(routes), min_size=BATCH, max_size=BATCH))
    def fuzz(inputs: list[bytes]) -> None:
        nonlocal sent
        outcomes = asyncio.run(batch(inputs))
        sent += len(inputs)
        if sent == 50 * BATCH:  # Caches and pools have their size.
            before.append((memory_bytes(server), open_files(server.http)))
        for data, outcome in zip(inputs, outcomes, strict=True):
            assert not outcome.hung, data
            status = outcome.status or 0
            assert status < 500 or status == 501, (status, data, bytes(outcome.body[:500]))
        assert children == server.children("engine") + server.children("server"), server.log[-3000:]

    fuzz()
    assert sent >= BATCH * BATCHES
    assert "Traceback" not in server.log
    memory, files = before[0]
    assert settled(lambda: open_files(server.http), files + 2) <= files + 2
    record("memory", settled(lambda: memory_bytes(server), memory * MEMORY) / memory, MEMORY, "x")


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_an_expensive_request_delays_nobody(server: ServerProcess, bomb: Bomb, record: Record) -> None:
    children = server.children("engine") + server.children("server")
    before = memory_bytes(server)

    async def attack() -> tuple[list[float], list[float], list[Outcome]]:
        async with canary(server.port, tokens=100) as bird:
            plain = [asyncio.create_task(_repeat(server.port, "chat", {})) for _ in range(3)]
            usual = await bird.gaps_during(4.0)
            await _end(plain)
            bombs = [asyncio.create_task(_bomb(server.port, bomb)) for _ in range(3)]
            beside = await bird.gaps_during(6.0)
            outcomes = [task.result() for task in bombs if task.done() and not task.cancelled()]
            await _end(bombs)
            return usual, beside, outcomes

    usual, beside, outcomes = asyncio.run(attack())
    assert children == server.children("engine") + server.children("server"), server.log[-3000:]
    for outcome in outcomes:
        assert outcome.status is not None, "no answer"
        assert outcome.status < 500 or outcome.status == 501, bytes(outcome.body[:500])
    record("gaps, 99th percentile", percentile(beside, 0.99) / percentile(usual, 0.99), GAPS, "x")
    record("longest gap", max(beside), max(4 * max(usual), 0.5), "s")
    wait_for("the engine to be idle", lambda: idle(server.port))
    record("memory", settled(lambda: memory_bytes(server), before * 1.2) / before, 1.2, "x")


async def _repeat(port: int, dialect: Any, fields: dict[str, object]) -> None:
    while True:
        await send(port, dialect, max_tokens=100, fields=fields)


async def _bomb(port: int, bomb: Bomb) -> Outcome:
    body = bomb.body if isinstance(bomb.body, bytes) else json.dumps(bomb.body).encode()
    head = f"POST {bomb.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return await send_bytes(port, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def _end(tasks: list[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
