"""A generation's way to the socket: one write for each event, a keep-alive in long silences, and an end for clients
that have gone or fall far behind.

Events are encoded and written while the engine's message is read. The request's task sleeps from the headers to the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.errors import SlowReader
from tailrace.server import sse
from tailrace.server.caller import caller_of
from tailrace.server.events import Event, Failure, KeepAlive, Usage
from tailrace.server.generation import Generation
from tailrace.server.open_streams import OpenStreams
from tailrace.server.request_cycle import CHUNKED_BODY, ChunkedBody
from tailrace.server.stream_encoder import Encoder
from tailrace.server.waiting_stream import waiting_stream


class EventStream(Response):
    """The streamed response. Headers and the first chunk go out at once: the request is known to be valid.

    It is the generation's ``EventSink``.
    """

    def __init__(
        self,
        generation: Generation,
        encoder: Encoder,
        *,
        keepalive_seconds: float,
        bound: int,
        headers: Sequence[tuple[bytes, bytes]] = sse.HEADERS,
        streams: OpenStreams | None = None,
        before_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``keepalive_seconds``: silence before a keep-alive; ``bound``: bytes that a client may be behind.

        ``streams``: where it is registered while it is sent. ``before_end``: awaited before the last event is sent.
        """
        self._streams = OpenStreams() if streams is None else streams
        self.status_code = 200
        self.background = None
        self.raw_headers = list(headers)
        self._generation = generation
        self._encoder = encoder
        self._before_end = before_end
        self._held: list[bytes] = []  #: the last event, until ``before_end`` has returned
        self._keepalive_seconds = keepalive_seconds
        self._bound = bound
        self._silence = 0.0  #: seconds
        self._sent = 0  #: pieces of the body at the last tick
        self._behind = 0  #: bytes that the client hadn't taken at the last tick

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client is gone."""
        async with cancelled_on_disconnect(self._generation, receive):
            waiting = waiting_stream(scope)
            is_open = waiting is not None and await waiting.hand_over()
            if not is_open:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self.chunks: ChunkedBody = scope["extensions"][CHUNKED_BODY]["body"]
            with self._streams.including(self.chunks, caller_of(scope)):
                if waiting is None or not (is_open and waiting.has_started):
                    for piece in self._encoder.start():
                        self.chunks.write(piece)
                self._generation.attach(self)
                await self._generation.finished()
                if self._before_end is not None:
                    await self._before_end()
                    for piece in self._held:
                        self.chunks.write(piece)
            await send({"type": "http.response.body", "body": self._encoder.end(), "more_body": False})

    def emit(self, event: Event) -> None:
        """See ``EventSink``."""
        pieces = self._encoder.encode(event)
        if self._before_end is not None and isinstance(event, (Usage, Failure)):
            self._held += pieces
            return
        for piece in pieces:
            self.chunks.write(piece)

    def tick(self, seconds: float) -> None:
        """See ``EventSink``."""
        self._silence = self._silence + seconds if self.chunks.pieces == self._sent else 0.0
        if self._silence >= self._keepalive_seconds:
            self._silence = 0.0
            self.emit(KeepAlive())
        self._sent = self.chunks.pieces
        # A burst from a fast engine isn't the client's fault: a client that catches up may be over the bound.
        before, self._behind = self._behind, self.chunks.waiting_bytes
        if self._behind >= before > self._bound:
            self._generation.fail(SlowReader("The client reads its stream too slowly, so it was stopped."))


class Cancellable(Protocol):
    """Anything that a client waits for."""

    def cancel(self) -> None:
        """The client has gone. Harmless after the end."""
        ...


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(generation: Cancellable, receive: Receive) -> AsyncIterator[None]:
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
