"""A request that hasn't reached the engine by its deadline, at the edge of the clocks' resolution."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import DeadlineExceeded
from tailrace.server import app
from tailrace.server.deadlines import Deadlines


async def hang(_: Request) -> Response:
    await asyncio.sleep(3600)
    raise AssertionError("it was cancelled")


def test_a_timer_that_fires_a_moment_early_is_a_missed_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    deadlines = Deadlines(begun, begun + 0.01, math.inf, math.inf)
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: deadlines.queue - 1e-9))
    with pytest.raises(DeadlineExceeded) as caught:
        asyncio.run(app._in_time(hang, Request({"type": "http"}), deadlines))
    assert caught.value.code == "queue_timeout"
