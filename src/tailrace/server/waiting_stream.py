"""A streamed request that waits for its model: after some silence its stream opens, with the dialect's keep-alives.

The status and the headers go out then, and the reply follows in the same response. An error that comes later is the
dialect's error in a stream, with its end. One mechanism for all dialects: a handler names an ``Opening`` before it asks
for its model, and ``EventStream`` goes on where the opening was. A request whose model is loaded needs nothing of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.errors import RequestError
from tailrace.server import sse
from tailrace.server.events import Failure, KeepAlive
from tailrace.server.forwarding import is_forwarded
from tailrace.server.request_cycle import CHUNKED_BODY, ChunkedBody
from tailrace.server.stream_encoder import Encoder

#: Keys of an ASGI scope: the request's way to send, with the silence before a keep-alive; and what opens its stream.
SEND = "tailrace.send"
_WAITING_STREAM = "tailrace.waiting_stream"


class Opening(Protocol):
    """What one dialect sends in a stream before the reply's encoder can begin."""

    has_started: bool  #: whether the encoder's ``start`` has been sent

    def start(self) -> list[bytes]:
        """The first pieces, at the time of the first keep-alive."""
        ...

    def keep_alive(self) -> list[bytes]:
        """A sign of life."""
        ...

    def failure(self, error: RequestError) -> list[bytes]:
        """The error, and the stream's end; also where nothing else was sent."""
        ...


class EncoderOpening:
    """The opening of a dialect whose encoder can be made before the model is there.

    With ``starts`` the encoder's own start comes first, without it a keep-alive: the start has to wait for the reply.
    """

    def __init__(self, encoder: Encoder, *, starts: bool) -> None:
        self.has_started = False
        self._encoder = encoder
        self._starts = starts

    def start(self) -> list[bytes]:
        """See ``Opening``."""
        if not self._starts:
            return self.keep_alive()
        self.has_started = True
        return self._encoder.start()

    def keep_alive(self) -> list[bytes]:
        """See ``Opening``."""
        return self._encoder.encode(KeepAlive())

    def failure(self, error: RequestError) -> list[bytes]:
        """See ``Opening``."""
        return [*self._encoder.encode(Failure(error)), self._encoder.end()]


class CommentOpening:
    """The opening of a stream of events whose encoder needs the reply: comments, and ``encode_error`` for errors."""

    has_started = False

    def __init__(self, encode_error: Callable[[RequestError], bytes]) -> None:
        self._encode_error = encode_error

    def start(self) -> list[bytes]:
        """See ``Opening``."""
        return self.keep_alive()

    def keep_alive(self) -> list[bytes]:
        """See ``Opening``."""
        return [sse.COMMENT]

    def failure(self, error: RequestError) -> list[bytes]:
        """See ``Opening``."""
        return [self._encode_error(error)]


class WaitingStream:
    """See the module. ``opens_with`` makes one."""

    def __init__(
        self,
        send: Send,
        body: ChunkedBody,
        make: Callable[[], Opening],
        headers: Sequence[tuple[bytes, bytes]],
        seconds: float,
    ) -> None:
        self.is_open = False  #: the status has been sent
        self._make = make
        self._opening: Opening | None = None
        self._send = send
        self._body = body
        self._headers = list(headers)
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._head_sent: asyncio.Future[None] | None = None  #: done once the head is no longer on its way

    @property
    def has_started(self) -> bool:
        """Whether the start of the reply's encoder has been sent."""
        return self._opening is not None and self._opening.has_started

    def begin(self) -> None:
        """The request begins to wait. Harmless when repeated. Raises RequestError where the request is wrong."""
        if self._opening is None:
            self._opening = self._make()
            if self._seconds < math.inf:
                self._task = asyncio.create_task(self._run(self._opening))

    async def has_waited(self) -> None:
        """The model is there: a stream that isn't open stays so, and its reply is as if it had not waited."""
        if not await self._is_settled_open() and self._task is not None:
            self._task.cancel()

    async def hand_over(self) -> bool:
        """Send nothing more: the reply's own stream, or another response, follows. Whether the stream is open."""
        is_open = await self._is_settled_open()
        if self._task is not None:
            self._task.cancel()
        return is_open

    async def continued(self, response: Response) -> Response:
        """``response``; where the stream is open and this is no stream, what ends the stream with its body."""
        body = getattr(response, "body", None)  # A stream has none, and goes on with the open one by itself.
        if body is None or not await self.hand_over():
            return response
        return _Continued(self, bytes(body))

    async def fail(self, error: RequestError) -> None:
        """End the open stream with ``error``."""
        assert self._opening is not None, "it is open"
        await self.end(self._opening.failure(error))

    async def _is_settled_open(self) -> bool:
        """Whether the stream is open, once that is sure: a head that is on its way can't be taken back."""
        if self._head_sent is not None and not self._head_sent.done():
            await asyncio.shield(self._head_sent)
        return self.is_open

    async def _run(self, opening: Opening) -> None:
        await asyncio.sleep(self._seconds)
        self._head_sent = asyncio.get_running_loop().create_future()
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self.is_open = True
        finally:
            self._head_sent.set_result(None)
        pieces = opening.start()
        while True:
            for piece in pieces:
                self._body.write(piece)
            await asyncio.sleep(self._seconds)
            pieces = opening.keep_alive()

    async def end(self, pieces: Sequence[bytes]) -> None:
        """Send the pieces, and the end of the body."""
        for piece in pieces:
            if piece:
                self._body.write(piece)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Continued(Response):
    """The end of an open stream, with the body of a response that is no stream."""

    def __init__(self, waiting: WaitingStream, rest: bytes) -> None:
        super().__init__()
        self._waiting = waiting
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``Response``."""
        await self._waiting.end([self._rest])


def opens_with(
    request: Request,
    make: Callable[[], Opening],
    headers: Sequence[tuple[bytes, bytes]] = sse.HEADERS,
    *,
    keepalive_seconds: float | None = None,
) -> None:
    """Open the request's stream with what ``make`` makes when it has waited ``keepalive_seconds`` for its model; None
    is the server's setting.
    """
    scope = request.scope
    body: ChunkedBody = scope["extensions"][CHUNKED_BODY]["body"]
    send, seconds = scope[SEND]
    seconds = seconds if keepalive_seconds is None else keepalive_seconds
    if is_forwarded(scope):
        seconds = math.inf  # The ingress sends the signs of life.
    scope[_WAITING_STREAM] = WaitingStream(send, body, make, headers, seconds)


def is_open(scope: Scope | dict[str, Any]) -> bool:
    """Whether the request with this scope has had keep-alives while it waited for its model, which is there now."""
    waiting = waiting_stream(scope)
    return waiting is not None and waiting.is_open


def waiting_stream(scope: Scope | dict[str, Any]) -> WaitingStream | None:
    """The stream that the request with this scope opens while it waits; None where it isn't streamed."""
    found: WaitingStream | None = scope.get(_WAITING_STREAM)
    return found
