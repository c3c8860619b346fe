"""One request and its response on a connection: uvicorn's cycle, with bodies that are written piece by piece, requests
that fail while they are being read, and defects that are answered in JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tailrace.errors import InternalError, RequestError
from tailrace.server.json_response import error_envelope

#: Name of the ASGI extension whose ``body`` is a request's ``ChunkedBody``.
CHUNKED_BODY = "tailrace.chunked_body"
#: Name of the ASGI extension whose ``fail`` ends the reading of a request's body with an error.
REQUEST_BODY = "tailrace.request_body"
#: Name of the ASGI extension whose ``response`` is a request's ``RawResponse``.
RAW_RESPONSE = "tailrace.raw_response"


class Reader(Protocol):
    """The connection, as far as a cycle needs it."""

    def resume(self) -> None:
        """Go on reading the request's body."""
        ...

    def linger(self) -> None:
        """Send what waits, read and drop what comes, and end soon."""
        ...


class ChunkedBody:
    """The body of a response between its start and its end, which both go through ASGI's ``send``.

    ``send`` is a coroutine that a task has to await. The task's wake-up and the layers around it double the CPU time of
    a token (docs/architecture.md). A piece that is written here is on the transport when the call returns.
    """

    __slots__ = ("_cycle", "_framed", "pieces", "written_bytes")

    def __init__(self, cycle: RequestResponseCycle, *, framed: bool) -> None:
        """``framed``: each piece is a chunk of HTTP/1.1's chunked coding, which HTTP/1.0 doesn't have."""
        self._cycle: Any = cycle
        self._framed = framed
        self.written_bytes = 0  #: bytes
        self.pieces = 0  #: written so far

    def end(self) -> None:
        """Nothing more is written, as if the client had gone."""
        self._cycle = _EndedCycle

    def write(self, piece: bytes) -> None:
        """Write one (non-empty) piece, as a chunk of its own. Never waits: see ``waiting_bytes``."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if self._framed else piece
        self.pieces += 1
        self.written_bytes += len(chunk)
        cycle.transport.write(chunk)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait in this process because the client doesn't take them."""
        return 0 if self._cycle.disconnected else int(self._cycle.transport.get_write_buffer_size())


class _EndedCycle:
    """Stands for the cycle of a body that has ended."""

    disconnected = True


class RawResponse:
    """The bytes of a response as they are on the wire: those of another server, with its head and its framing.

    Where ASGI's ``send`` has written a head, the bytes that follow are chunks, or an unframed body for HTTP/1.0.
    """

    __slots__ = ("_cycle", "on_disconnect")

    def __init__(self, cycle: RequestCycle) -> None:
        self._cycle: RequestCycle | None = cycle
        self.on_disconnect: Callable[[], None] = _do_nothing  #: called when the client has gone

    def forget(self) -> None:
        """The request has ended."""
        self._cycle = None
        self.on_disconnect = _do_nothing

    @property
    def keep_alive(self) -> bool:
        """Whether the client's connection goes on after the response."""
        return self._cycle is not None and self._cycle.keep_alive

    @property
    def write_paused(self) -> bool:
        """Whether the client is behind: the other server should wait."""
        return self._cycle is not None and self._cycle.flow.write_paused

    async def drain(self) -> None:
        """Return when the client has taken most of what waits for it, or has gone."""
        if self._cycle is not None:
            await self._cycle.flow.drain()

    def write_interim(self, head: bytes) -> None:
        """Write an interim response, unless the head has been written (RFC 9110, section 15.2)."""
        cycle = self._cycle
        if cycle is not None and not cycle.response_started and not cycle.disconnected:
            cycle.transport.write(head)

    def abort(self) -> None:
        """End the connection at once; what the client hasn't taken is dropped."""
        if self._cycle is not None:
            self._cycle.transport.abort()

    def write(self, data: bytes) -> None:
        """Write bytes of the response; the first ones begin with its head. Never waits: see ``write_paused``."""
        cycle = self._cycle
        if cycle is None or cycle.disconnected:
            return
        cycle.response_started = True
        cycle.chunks.written_bytes += len(data)
        cycle.transport.write(data)

    def end(self, *, keep_alive: bool) -> None:
        """All of the response is written. ``keep_alive`` False closes the connection: that may be the body's end."""
        cycle = self._cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not (keep_alive and cycle.keep_alive):
            cycle.transport.close()
        cycle.on_response()


class RequestCycle(RequestResponseCycle):
    """See the module. ``begin`` makes one."""

    reader: Reader
    chunks: ChunkedBody
    raw: RawResponse
    _unframed = False
    _failure: RequestError | None = None

    @classmethod
    def begin(cls, connection: HttpToolsProtocol, *, reader: Reader, keep_alive: bool, chunked: bool) -> RequestCycle:
        """The cycle of the request whose head the connection has just read, with its extensions in the scope.

        ``reader``: the same connection; ``keep_alive``: it may go on after the request; ``chunked``: the client knows
        HTTP/1.1's chunked coding.
        """
        cycle = cls(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=connection.expect_100_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        cycle.reader = reader
        cycle.chunks = ChunkedBody(cycle, framed=chunked)
        cycle.raw = RawResponse(cycle)
        extensions: dict[str, Any] = {
            CHUNKED_BODY: {"body": cycle.chunks},
            REQUEST_BODY: {"fail": cycle.fail},
            RAW_RESPONSE: {"response": cycle.raw},
        }
        connection.scope["extensions"] = extensions
        return cycle

    def fail(self, error: RequestError) -> None:
        """Have ``receive`` raise ``error``, where the body isn't complete. The connection ends with the answer."""
        if self.more_body and not self.response_complete:
            self._failure = error
            self.keep_alive = False
            self.message_event.set()

    def disconnect(self) -> None:
        """The client has gone."""
        if not self.response_complete:
            self.disconnected = True
            self.raw.on_disconnect()
        self.message_event.set()

    async def run_asgi(self, app: Any) -> None:
        """Run the app. Its defects have been logged by the middleware; here they end the response."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            structlog.get_logger().debug("a request's task ended with an error", exc_info=True)
            if self.disconnected or self.transport.is_closing():
                return
            if self.response_started:
                self.transport.close()  # Without the body's end: the client sees that it is cut.
            else:
                await self._answer_defect()
        else:
            if not self.response_complete and not self.disconnected:
                structlog.get_logger().error("a request's response was left incomplete")
                self.transport.close()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Drop what refers back to the cycle, so its memory doesn't wait for the garbage collector."""
        self.on_response = _do_nothing
        self.chunks.end()
        self.raw.forget()
        self.scope.get("extensions", {}).clear()
        del self.reader

    async def _answer_defect(self) -> None:
        error = InternalError("The server hit a defect of its own on this request; its log has the details.")
        body = msgspec.json.encode(error_envelope(error))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def receive(self) -> Any:
        """See ASGI. Raises the RequestError of ``fail``."""
        if self._failure is None and self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self.reader.resume()
            await self.message_event.wait()
            self.message_event.clear()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # Its traceback has this frame: a cycle that keeps the body in memory.
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """See ASGI. A body without a length ends with the connection where the client speaks HTTP/1.0.

        uvicorn would send such a body in chunks. An HTTP/1.0 client (nginx's proxy by default, ``ab``) takes the
        chunks' sizes for text of the body.
        """
        if message["type"] == "http.response.start":
            if self.waiting_for_100_continue and self.more_body:
                # The client may send the body or leave it out: the next bytes could be either (RFC 9110, 10.1.1).
                self.keep_alive = False
            self._unframed = self.scope["http_version"] == "1.0" and all(
                name.lower() != b"content-length" for name, _ in message.get("headers", ())
            )
            if self._unframed:
                self.chunked_encoding = False
        elif self._unframed:
            # uvicorn compares what is sent with what was announced.
            self.expected_content_length = len(message.get("body", b""))
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        lingers = ends and self.more_body and not self.keep_alive and not self.disconnected
        if lingers:
            self.keep_alive = True  # uvicorn would close now, and the client, which writes, would not see the answer.
        await super().send(message)
        if lingers:
            self.reader.linger()


def _do_nothing() -> None:
    """The callback of a response's end once the app has returned."""
