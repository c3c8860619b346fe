"""uvicorn's HTTP/1.1 protocol with additions that clients need: refusals in JSON, bounded headers, declined upgrades,
and bodies that are written piece by piece.
"""

from __future__ import annotations

from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tailrace.errors import InvalidRequest
from tailrace.server.json_response import error_envelope
from tailrace.server.request_id import HEADER as REQUEST_ID
from tailrace.server.request_id import new_request_id

#: Max bytes of request line and headers together: enough for the cookies of a company's other tools.
MAX_HEAD = 65_536
#: Seconds that a refused client may go on writing. Closing the connection earlier could reset it before the client has
#: read the refusal.
_LINGER_SECONDS = 2.0


#: Name of the ASGI extension whose ``body`` is a request's ``ChunkedBody``.
CHUNKED_BODY = "tailrace.chunked_body"


class ChunkedBody:
    """The body of a response between its start and its end, which both go through ASGI's ``send``.

    ``send`` is a coroutine that a task has to await. The task's wake-up and the layers around it double the CPU time of
    a token (docs/architecture.md). A piece that is written here is on the transport when the call returns.
    """

    __slots__ = ("_cycle", "_framed", "_written", "pieces")

    def __init__(self, cycle: RequestResponseCycle, *, framed: bool) -> None:
        """``framed``: each piece is a chunk of HTTP/1.1's chunked coding, which HTTP/1.0 doesn't have."""
        self._cycle = cycle
        self._framed = framed
        self._written = 0  #: bytes
        self.pieces = 0  #: written so far

    def write(self, piece: bytes) -> None:
        """Write one (non-empty) piece, as a chunk of its own. Never waits: see ``waiting``."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if self._framed else piece
        self.pieces += 1
        self._written += len(chunk)
        cycle.transport.write(chunk)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for space in the operating system's buffers."""
        return 0 if self._cycle.disconnected else self._cycle.transport.get_write_buffer_size()

    @property
    def written_bytes(self) -> int:
        """Bytes that were written so far, the waiting ones included."""
        return self._written

    @property
    def waiting(self) -> int:
        """About how many of the pieces wait for space in the operating system's buffers."""
        if self._cycle.disconnected or not self.pieces:
            return 0
        return self._cycle.transport.get_write_buffer_size() * self.pieces // self._written


class UnframedResponse:
    """The ``send`` of a response to an HTTP/1.0 client: what has no content-length ends with the connection.

    uvicorn would send such a body in chunks. An HTTP/1.0 client (nginx's proxy by default, ``ab``) takes the chunks'
    sizes for text of the body.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._unframed = False

    async def __call__(self, message: Any) -> None:
        """See ASGI."""
        if message["type"] == "http.response.start":
            self._unframed = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if self._unframed:
                self._cycle.chunked_encoding = False
        elif self._unframed:
            # uvicorn compares what is sent with what was announced.
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._refused = False  #: all further bytes are dropped

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._unset_keepalive_if_required()
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            if self._head_bytes > MAX_HEAD:
                self._refuse_head()
            else:
                self._refuse(400, InvalidRequest("This is not a valid HTTP request.", code="invalid_http"))
        else:
            # No callback comes while a single header goes on and on.
            if self._in_head and self._head_bytes > MAX_HEAD:
                self._refuse_head()

    def on_headers_complete(self) -> None:
        """The head is read. Raises ValueError, which the parser turns into an error of its own, on one to refuse."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD:
            self._head_bytes = size
            raise ValueError("the head is too long")
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if self.parser.should_upgrade():
            return  # The parser stops here: see ``_decline``.
        self._in_head = False
        self._head_bytes = 0
        if not self.url.startswith(b"/"):
            self.url = _with_path(self.url)
        super().on_headers_complete()
        framed = self.parser.get_http_version() != "1.0"
        if not framed:
            self.cycle.send = UnframedResponse(self.cycle)  # type: ignore[method-assign]  # uvicorn's task calls what stands here
        self.scope["extensions"] = {CHUNKED_BODY: {"body": ChunkedBody(self.cycle, framed=framed)}}

    def on_message_complete(self) -> None:
        """The request is read: the next head may begin."""
        if not self.parser.should_upgrade():
            self._in_head = True
            super().on_message_complete()

    def _decline(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 after an offer to upgrade: read the same head again, without the offer.

        The parser takes everything behind such a head for another protocol. But Java's HttpClient offers h2c with an
        ordinary request, body and all, and goes on using the connection.
        """
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() != b"upgrade")
            if name != b"upgrade":
                head.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._head_bytes = 0
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def _refuse_head(self) -> None:
        error = InvalidRequest(f"The request's line and headers are over {MAX_HEAD} bytes.", code="headers_too_large")
        self._refuse(431, error)

    def _refuse(self, status: int, error: InvalidRequest) -> None:
        """Answer bytes that are no request, unless another request's reply is on its way; then drop all that follow."""
        self._refused = True
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request.
        if self.pipeline:
            self.transport.close()
            return
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:
                cycle.keep_alive = False  # The connection ends with the reply.
                return
            # The request that is waited for never comes.
            cycle.disconnected = True
            cycle.message_event.set()
        body = msgspec.json.encode(error_envelope(error))
        head = [STATUS_LINE[status], *(b"%b: %b\r\n" % header for header in self.server_state.default_headers)]
        head.append(b"%b: %b\r\n" % (REQUEST_ID, new_request_id().encode()))
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join([*head, body]))
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def _with_path(url: bytes) -> bytes:
    """A request's target with the path that ``http://host`` and ``http://host?query`` leave out (RFC 9110, 7.1)."""
    parsed = httptools.parse_url(url)
    if not parsed.schema or parsed.path:
        return url
    return b"/?" + parsed.query if parsed.query else b"/"
