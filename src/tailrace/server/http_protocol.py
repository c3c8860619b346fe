"""One HTTP/1.1 connection: uvicorn's protocol with limits of time and memory, refusals in JSON, bounded heads and
declined upgrades.

It has no timer of its own: ``Connections`` calls ``check`` about once a second.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailrace.errors import InvalidRequest, RequestError, RequestTimeout
from tailrace.server import tcp_reset
from tailrace.server.connections import Connections
from tailrace.server.http_head import MAX_HEAD, head_too_large, head_without_upgrade, target_fields, with_path
from tailrace.server.refusal import refusal_response, set_refusal, too_many_connections
from tailrace.server.request_cycle import RequestCycle
from tailrace.server.request_id import HEADER as REQUEST_ID
from tailrace.server.request_id import new_request_id
from tailrace.server.transfer_progress import BodyProgress, SendProgress

#: Seconds that a refused client may go on writing. Closing the connection earlier could reset it before the client has
#: read the refusal.
_LINGER_SECONDS = 2.0
#: How long a client may take nothing of a complete reply while the server stops.
_LAST_SEND_SECONDS = 2.0
#: Bytes that the parser gets at once. What follows in the client's write waits while a request is being served.
_SLICE = 4_096
#: Max bytes that wait for the parser before the connection isn't read any more.
_MAX_HELD = 65_536


class HttpProtocol(HttpToolsProtocol):
    """One connection. It waits for a head, then reads a body, then serves; heads of further requests may come early."""

    cycle: RequestCycle | None  # type: ignore[assignment]  #: of the newest request

    def __init__(self, connections: Connections, address: str, *, status_only: bool, **kwargs: Any) -> None:
        """``status_only``: requests for anything but the server's own state are refused, for lack of connections."""
        super().__init__(**kwargs)
        self.address = address
        self._connections = connections
        self._limits = connections.limits
        self._status_only = status_only
        self._stopping = connections.stopping
        self._connected = False  #: False until TLS's handshake has ended, too
        self._unwanted = False  #: to be closed as soon as it is connected
        self._in_head = True
        self._head_begun = False  #: bytes of the next head have come
        self._head_bytes = 0
        self._since = 0.0  #: when the wait for the head began, or the head itself
        self._requests = 0
        self._serving: RequestCycle | None = None
        self._held = b""  #: bytes that the parser hasn't had
        self._refused = False  #: all further bytes are dropped
        self._refused_at = 0.0
        self._receiving = BodyProgress()
        self._sending = SendProgress()
        self._checked_at = 0.0
        self._reset_reason: str | None = None

    # The connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._connected = True
        self._since = self._checked_at = self.loop.time()
        if self._unwanted:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio. Every request of the connection learns that its client has gone."""
        self._connections.remove(self)
        cycles = [self._serving, *self._queued(), self.cycle]
        self.pipeline.clear()
        self._held = b""
        super().connection_lost(exc)
        for cycle in cycles:
            if cycle is not None:
                cycle.disconnect()
        # A request's scope has its whole reply. Connection and cycle refer to each other, so it would stay until a
        # collection of old objects, which is rare.
        self.cycle = self._serving = None
        self.scope = None  # type: ignore[assignment]  # as before the first request

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._refused:
            return
        if self._held or len(data) > _SLICE or self.pipeline:
            self._held = self._held + data if self._held else data
            self._feed_held()
        else:
            self._feed(data)
        self._pause_or_read()

    def _feed_held(self) -> None:
        """Give the parser what it hasn't had, as long as it may be read: a client that sends a thousand requests at
        once gets them parsed a few at a time.
        """
        held, position = self._held, 0
        while position < len(held) and not (self._refused or self.pipeline or self._body_is_full):
            piece = held[position : position + _SLICE]
            position += len(piece)
            self._feed(piece)
        self._held = b"" if self._refused else held[position:]

    @property
    def _body_is_full(self) -> bool:
        """Whether the app has to take bytes of the body before more may come."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT

    def _pause_or_read(self) -> None:
        if self.transport.is_closing():
            return
        if not self._refused and (len(self._held) > _MAX_HELD or self._body_is_full):
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._receiving.framing_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            if self._head_bytes > MAX_HEAD:
                self._refuse(431, head_too_large())
            elif self._receiving.has_many_pieces and not self._in_head:
                self._refuse(400, InvalidRequest("The body comes in too many tiny pieces.", code="invalid_http"))
            else:
                self._refuse(400, InvalidRequest("This is not a valid HTTP request.", code="invalid_http"))
        else:
            # No callback comes while a single header goes on and on.
            if self._in_head and self._head_bytes > MAX_HEAD:
                self._refuse(431, head_too_large())
            elif not self._in_head and self._receiving.framing_bytes > MAX_HEAD:
                self._refuse(400, InvalidRequest("The body's framing is too long.", code="invalid_http"))

    def resume(self) -> None:
        """See ``Reader``. Bytes that are held come before those that the transport has."""
        if self.transport.is_closing():
            return
        if self._held:
            self._feed_held()
        self._pause_or_read()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._head_begun = True
        if self._requests:  # The time of the first head begins with the connection.
            self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Those behind a body are dropped: they may not take effect (RFC 9110, 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

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
        if not self.url.startswith(b"/"):
            self.url = with_path(self.url)
        self._in_head = self._head_begun = False
        self._head_bytes = 0
        self._receiving.begin(self.loop.time())
        self._requests += 1
        self._connections.serve(self)
        version = self.parser.get_http_version()
        self._complete_scope(version)
        modern = version != "1.0"
        keep_alive = modern and self.parser.should_keep_alive() and not self._status_only and self._stopping is None
        self.cycle = cycle = RequestCycle.begin(self, reader=self, keep_alive=keep_alive, chunked=modern)
        if self._serving is None:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))

    def _complete_scope(self, version: str) -> None:
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope.update(target_fields(self.url))  # type: ignore[typeddict-item]  # a part of the same dict
        if self._stopping is not None:
            set_refusal(self.scope, self._stopping)  # type: ignore[arg-type]  # uvicorn's type of the same dict
        elif self._status_only:
            set_refusal(self.scope, too_many_connections())  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        """More of a body. Raises ValueError on one to refuse."""
        self._receiving.add(len(body))
        cycle = self.cycle
        assert cycle is not None
        if cycle.response_complete:
            if self._receiving.bytes > self._limits.dropped_bytes:
                self.linger()
            return
        cycle.body += body
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is read: the next head may begin."""
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._since = self.loop.time()
        assert self.cycle is not None
        if self.cycle.response_complete:
            self._wait_when_idle()
        else:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._serving = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """A response has been written: the next request's turn."""
        self._serving = None
        self._sending.begin_reply()
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._wait_when_idle()
        if self._held or self.flow.read_paused:
            self.loop.call_soon(self.resume)

    def _wait_when_idle(self) -> None:
        if self._in_head and self._serving is None and not self._refused:
            self._connections.wait(self)

    def _decline(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 after an offer to upgrade: read the same head again, without the offer.

        The parser takes everything behind such a head for another protocol. But Java's HttpClient offers h2c with an
        ordinary request, body and all, and goes on using the connection.
        """
        parser = self.parser
        head = head_without_upgrade(parser.get_method(), self.url, parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._head_bytes = 0
        self._feed(head + rest)

    # Limits

    def check(self, now: float) -> int:
        """See ``Connection``."""
        transport = self.transport
        if not self._connected:  # The time of TLS's handshake is limited by asyncio.
            return 0
        seconds, self._checked_at = now - self._checked_at, now
        unsent = self._check_sending(now)
        if self._refused:
            if now - self._refused_at > _LINGER_SECONDS and not transport.is_closing():
                transport.close()
        elif not transport.is_closing():
            self._check_receiving(now, seconds)
        return unsent

    def _check_sending(self, now: float) -> int:
        unsent = self.transport.get_write_buffer_size()
        written = 0 if self._serving is None else self._serving.chunks.written_bytes
        complete = self._serving is None or self._refused
        limit = _LAST_SEND_SECONDS if complete and self._stopping is not None else self._limits.send_seconds
        if self._sending.is_stuck(now, limit, unsent, written):
            self.reset("slow_reader")
            return 0
        return unsent

    def _check_receiving(self, now: float, seconds: float) -> None:
        if not self._in_head:
            self._check_body(now, seconds)
        elif self._serving is not None or self._held:
            return  # The client waits for the server.
        elif self._head_begun or not self._requests:
            if now - self._since > self._limits.header_seconds:
                if self._head_begun:
                    self._count_end("slow_head")
                    self._refuse(408, RequestTimeout("The request's line and headers didn't come in time."))
                else:
                    self._count_end("silent")
                    self.transport.close()
        elif now - self._since > self._limits.idle_seconds:
            self.transport.close()

    def _check_body(self, now: float, seconds: float) -> None:
        if self.flow.read_paused or self._held or self.pipeline:
            self._receiving.pause(seconds)
        if not self._receiving.is_stuck(now, self._limits.body_seconds):
            return
        self._count_end("slow_body")
        if self.cycle is None or self.cycle.response_complete:
            self.linger()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.cycle.fail(RequestTimeout("The request's body didn't come in time."))

    def seconds_to_send(self, now: float) -> float:
        """See ``Connection``."""
        return self._sending.seconds_left(now)

    def reset(self, reason: str) -> None:
        """See ``Connection``. The requests of the connection learn it as if the client had gone."""
        if not self._connected:
            return
        if self._reset_reason is None:
            self._reset_reason = reason
            self._count_end(reason)
        tcp_reset.reset(self.transport)

    def close_waiting(self) -> None:
        """See ``Connection``."""
        self._unwanted = True
        if self._connected:
            self.transport.close()

    def stop(self, error: RequestError) -> None:
        """See ``Connection``. The request that is being served goes on, but not the reading of its body."""
        self._stopping = error
        for cycle in self._queued():
            set_refusal(cycle.scope, error)  # type: ignore[arg-type]
        if self.cycle is None:
            return
        self.cycle.keep_alive = False  # The newest is the last to be answered.
        if self._serving is not None:
            self._serving.fail(error)
        elif not self._in_head:
            self.linger()  # The rest of a body that has been refused.
        elif not self._head_begun:
            self.close_waiting()

    def _queued(self) -> list[RequestCycle]:
        """The requests behind the one that is being served, newest first."""
        return [cast(RequestCycle, cycle) for cycle, _ in self.pipeline]

    def linger(self) -> None:
        """See ``Reader``."""
        self._refused = True
        self._refused_at = self.loop.time()
        self._held = b""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _count_end(self, reason: str) -> None:
        self._connections.report_end(reason, self.address, self._sending.unsent)

    def _refuse(self, status: int, error: RequestError) -> None:
        """Answer bytes that are no request, unless another request's reply is on its way; then drop all that follow."""
        self._refused = True
        self._refused_at = self.loop.time()
        self._held = b""
        serving = self._serving
        if self.pipeline:
            self.transport.close()
            return
        if serving is None and not self._in_head:
            self.linger()  # The request has been answered.
            return
        if serving is not None:
            if serving.response_started or not serving.more_body:
                self._refused_at = float("inf")  # The connection ends with the reply.
                serving.keep_alive = False
                return
            # The request that is waited for never comes.
            serving.disconnect()
        headers = [*self.server_state.default_headers, (REQUEST_ID, new_request_id().encode())]
        self.transport.write(refusal_response(error, status, headers))
        self.linger()
