"""A generation's way to the socket: one event one write, and an ear for the client's going away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.server import sse
from tailrace.server.events import Event
from tailrace.server.generate import Generation


class Encoder(Protocol):
    """Turns events into one dialect's bytes; each returned piece is one event on the wire."""

    def start(self) -> list[bytes]:
        """What goes out before the first event."""
        ...

    def encode(self, event: Event) -> list[bytes]:
        """One event's pieces, often one."""
        ...

    def end(self) -> bytes:
        """What goes out last; empty after a failure."""
        ...


class EventStream(Response):
    """The streamed response. Headers and the first chunk go out at once: the request is known to be valid."""

    def __init__(self, generation: Generation, encoder: Encoder) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(sse.HEADERS)
        self._generation = generation
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client is gone."""
        encoder = self._encoder
        async with cancelled_on_disconnect(self._generation, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for piece in encoder.start():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            async for events in self._generation.events():
                for event in events:
                    for piece in encoder.encode(event):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": encoder.end(), "more_body": False})


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(generation: Generation, receive: Receive) -> AsyncIterator[None]:
    """While inside, a client that goes away cancels ``generation`` at once; leaving early cancels it too."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        generation.cancel()
