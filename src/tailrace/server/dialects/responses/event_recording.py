"""Recordings of a background response's events, for clients that connect at any time.

An event's index is its ``sequence_number``, so a client that lost its connection requests the events after the last one
it has.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.server import sse
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.events import Event, KeepAlive
from tailrace.server.waiting_stream import waiting_stream


class Recording:
    """Events as bytes, in order, and whether the recording is complete."""

    def __init__(self, pieces: Sequence[bytes] = (), *, closed: bool = False) -> None:
        self.pieces = list(pieces)
        self.closed = closed
        self._changed: asyncio.Future[None] | None = None  #: set at the next change

    def add(self, pieces: Sequence[bytes]) -> None:
        """More has happened."""
        self.pieces += pieces
        self._wake()

    def close(self) -> None:
        """End it."""
        self.closed = True
        self._wake()

    async def changed(self) -> None:
        """Return at the next event, or at the end."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)


def compress_events(pieces: Sequence[bytes]) -> bytes:
    """Events in compressed form: each token has an event."""
    return zlib.compress(b"".join(pieces), 1)


def decompress_events(data: bytes) -> list[bytes]:
    """The events that ``compress_events`` has compressed."""
    return [event + b"\n\n" for event in zlib.decompress(data).split(b"\n\n") if event]


class Recorder:
    """Encodes a generation's events into a recording. It is the generation's ``EventSink``."""

    def __init__(self, encoder: ResponsesStream) -> None:
        self.recording = Recording(encoder.start())
        self._encoder = encoder

    def emit(self, event: Event) -> None:
        """See ``EventSink``. Signs of life are each reader's own."""
        if not isinstance(event, KeepAlive):
            self.recording.add(self._encoder.encode(event))

    def tick(self, seconds: float) -> None:
        """See ``EventSink``: there may be no client that needs keep-alives."""

    def close(self) -> None:
        """The generation is over, in one way or another."""
        self._encoder.end()
        self.recording.close()


class RecordedStream(Response):
    """Streams a recording from some event to its end. A client that disconnects ends the stream, not the recording."""

    def __init__(self, recording: Recording, *, begin: int, keepalive_seconds: float) -> None:
        """``begin``: number of the first event to send; ``keepalive_seconds``: silence before a sign of life."""
        self.status_code = 200
        self.background = None
        self.raw_headers = list(sse.HEADERS)
        self._recording = recording
        self._next = begin
        self._keepalive_seconds = keepalive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client disconnects. A slow client needs no buffer of its own: the recording
        has all events.
        """
        recording = self._recording
        disconnected = asyncio.create_task(_disconnected(receive))
        try:
            waiting = waiting_stream(scope)
            if waiting is None or not await waiting.hand_over():
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not disconnected.done():
                while self._next < len(recording.pieces) and not disconnected.done():
                    await send(_part(recording.pieces[self._next]))
                    self._next += 1
                if recording.closed:
                    break
                more = asyncio.create_task(recording.changed())
                done, _ = await asyncio.wait(
                    {disconnected, more}, timeout=self._keepalive_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                more.cancel()
                if not done:
                    # A comment has no number: events that are counted must be the same for every reader.
                    await send(_part(sse.COMMENT))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnected.cancel()


def _part(piece: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": piece, "more_body": True}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
