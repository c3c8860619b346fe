"""A generation without an engine, for tests of what follows generations: the test says when it ends."""

from __future__ import annotations

import asyncio

from tailrace.server.events import EventSink


class HeldGeneration:
    """It runs until it is cancelled, or ``done`` is set. ``sink`` gets the events that the test sends."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def attach(self, listener: EventSink) -> None:
        self.sink = listener

    async def finished(self) -> None:
        await self.done

    def cancel(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
