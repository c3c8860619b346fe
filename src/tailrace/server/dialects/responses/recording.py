"""The events of a response that no client has to wait for: kept as they are made, for clients that come at any time.

An event's place is its ``sequence_number``, so a client that was cut off asks for those behind the last one that it has
seen.
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


class Recording:
    """Events as bytes, in order, and whether more will come."""

    def __init__(self, pieces: Sequence[bytes] = (), *, over: bool = False) -> None:
        self.pieces = list(pieces)
        self.over = over
        self._changed: asyncio.Future[None] | None = None  #: of those who wait for more

    def add(self, pieces: Sequence[bytes]) -> None:
        """More has happened."""
        self.pieces += pieces
        self._wake()

    def close(self) -> None:
        """No more comes."""
        self.over = True
        self._wake()

    async def changed(self) -> None:
        """Return when there is more, or when it is over."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)


def packed(recording: Recording) -> bytes:
    """The events as they are kept: in few bytes, because each token has one."""
    return zlib.compress(b"".join(recording.pieces), 1)


def unpacked(data: bytes) -> Recording:
    """What ``packed`` has made these bytes of."""
    events = zlib.decompress(data).split(b"\n\n")
    return Recording([event + b"\n\n" for event in events if event], over=True)


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
        """See ``EventSink``: there may be nobody to keep awake."""

    def close(self) -> None:
        """The generation is over, in one way or another."""
        self._encoder.end()
        self.recording.close()


class RecordedStream(Response):
    """A recording as a stream, from some event to its end. A client that goes away ends nothing but this."""

    def __init__(self, recording: Recording, *, begin: int, keepalive_seconds: float) -> None:
        """``begin``: number of the first event to send; ``keepalive_seconds``: silence before a sign of life."""
        self.status_code = 200
        self.background = None
        self.raw_headers = list(sse.HEADERS)
        self._recording = recording
        self._next = begin
        self._keepalive_seconds = keepalive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client is gone. A slow client is waited for: what it hasn't read is kept
        once, for all.
        """
        recording = self._recording
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not gone.done():
                while self._next < len(recording.pieces) and not gone.done():
                    await send(_part(recording.pieces[self._next]))
                    self._next += 1
                if recording.over:
                    break
                more = asyncio.create_task(recording.changed())
                done, _ = await asyncio.wait(
                    {gone, more}, timeout=self._keepalive_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                more.cancel()
                if not done:
                    # A comment has no number: events that are counted must be the same for every reader.
                    await send(_part(sse.COMMENT))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


def _part(piece: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": piece, "more_body": True}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
