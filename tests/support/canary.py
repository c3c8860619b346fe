"""A client that streams one short reply after the other, and the gaps between its tokens."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator

from observed_requests import Outcome, problems, send


class Canary:
    """Its replies until now. A reply that fails is an error of the test."""

    def __init__(self, port: int, tokens: int) -> None:
        self._port = port
        self._tokens = tokens
        self.outcomes: list[Outcome] = []

    @property
    def gaps(self) -> list[float]:
        """All gaps between pieces so far, in seconds, first tokens left out."""
        return [gap for outcome in self.outcomes for gap in outcome.gaps]

    async def run(self) -> None:
        """Stream until cancelled."""
        while True:
            self.outcomes.append(await send(self._port, "chat", "Tell me a story.", self._tokens, source="127.0.0.2"))

    async def gaps_during(self, seconds: float) -> list[float]:
        """The gaps of the coming seconds."""
        before = len(self.gaps)
        await asyncio.sleep(seconds)
        while len(self.gaps) == before:
            await asyncio.sleep(0.05)
        return self.gaps[before:]


@contextlib.asynccontextmanager
async def canary(port: int, tokens: int = 40) -> AsyncIterator[Canary]:
    """A canary that sings during the block; its replies have to be whole."""
    bird = Canary(port, tokens)
    task = asyncio.create_task(bird.run())
    try:
        yield bird
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert bird.outcomes, "no reply of the canary has ended"
    assert not problems(bird.outcomes)
    assert all(outcome.accepted and not outcome.failed for outcome in bird.outcomes), bird.outcomes[-1]


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of all values are; ``share`` in hundredths."""
    return statistics.quantiles(values, n=100)[round(share * 100) - 1]
