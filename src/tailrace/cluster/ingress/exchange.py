"""One request on one connection to a replica: reads the response, and hands it on as it comes.

It knows where the response ends, and whether an engine has begun. What becomes of the bytes is its ``ReplySink``'s.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tailrace.cluster.ingress.response_framing import ChunkedFraming, ResponseHead, parse_head, split_head
from tailrace.cluster.ingress.upstream import UpstreamConnection

#: A response with a length is handed on as a whole up to this size in bytes, so that it can be replaced by an error.
_HELD_BODY = 65_536


class WholeReply(NamedTuple):
    """A response that is no stream."""

    head: ResponseHead
    raw_head: bytes
    body: bytes


class ReplySink(Protocol):
    """What gets the response of an exchange. After ``whole``, ``ended`` or ``broken`` nothing more is called."""

    def begun(self) -> None:
        """An engine works on the request."""
        ...

    def whole(self, reply: WholeReply) -> None:
        """All of a response that is no stream."""
        ...

    def opened(self, head: ResponseHead, raw_head: bytes) -> None:
        """The head of a response whose body follows in pieces."""
        ...

    def relay(self, data: bytes) -> None:
        """A piece of the body, as it is on the wire."""
        ...

    def ended(self) -> None:
        """The body is complete."""
        ...

    def broken(self) -> None:
        """The connection has ended before the response has, or what came is no response."""
        ...


class Exchange:
    """See the module."""

    __slots__ = (
        "_buffer",
        "_connection",
        "_framing",
        "_head",
        "_is_paused",
        "_is_settled",
        "_left",
        "_method",
        "_sink",
        "has_begun",
        "has_bytes",
    )

    def __init__(self, connection: UpstreamConnection, method: str, sink: ReplySink) -> None:
        self.has_begun = False  #: an engine works on the request, or has
        self.has_bytes = False  #: something of a response has come
        self._connection = connection
        self._method = method
        self._sink = sink
        self._buffer = b""
        self._framing: ChunkedFraming | None = None  #: of a chunked body
        self._head: tuple[ResponseHead, bytes] | None = None
        self._is_paused = False
        self._is_settled = False  #: the connection isn't this exchange's any more
        self._left: int | None = None  #: bytes of a body with a length that haven't been handed on

    @property
    def is_between_chunks(self) -> bool:
        """Whether another chunk may be written behind what was handed on."""
        return self._framing is not None and self._framing.is_between_chunks

    def start(self, head: bytes, body: bytes) -> None:
        """Send the request."""
        connection = self._connection
        connection.receiver = self
        connection.transport.write(head)
        if body:
            connection.transport.write(body)

    def pause(self) -> None:
        """Read nothing until ``resume``: the client is behind."""
        if not self._is_settled and not self._connection.transport.is_closing():
            self._is_paused = True
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._is_paused and not self._is_settled and not self._connection.transport.is_closing():
            self._is_paused = False
            self._connection.transport.resume_reading()

    def abort(self) -> None:
        """The response isn't wanted any more: the replica sees that its client has gone. Harmless after the end."""
        if not self._is_settled:
            self._is_settled = True
            self._connection.abort()

    def received(self, data: bytes) -> None:
        """See ``Receiver``."""
        framing = self._framing
        try:
            if framing is None:
                self._receive(data)
                return
            ready = framing.take(data)
        except ValueError:
            self._fail()
            return
        if ready:
            self._sink.relay(ready)
        if framing.ended:
            self._end()

    def broken(self) -> None:
        """See ``Receiver``."""
        self._is_settled = True
        if self._head is not None and self._framing is None and self._left is None:
            self._sink.ended()  # The body of a response to HTTP/1.0 ends with the connection.
        else:
            self._sink.broken()

    def _receive(self, data: bytes) -> None:
        """Bytes before the body's framing is known, or of a body without chunks. Raises ValueError."""
        self.has_bytes = True
        if self._head is not None:
            self._receive_body(data)
            return
        self._buffer += data
        while (found := split_head(self._buffer)) is not None:
            raw_head, rest = found
            head = parse_head(raw_head, self._method)
            self._buffer = rest
            if head.status >= 200:
                self._open(head, raw_head)
                return
            if head.status == 102 and not self.has_begun:
                self.has_begun = True
                self._sink.begun()

    def _open(self, head: ResponseHead, raw_head: bytes) -> None:
        rest, self._buffer = self._buffer, b""
        self._head = head, raw_head
        self._left = head.length
        if head.chunked:
            self._framing = ChunkedFraming()
        if head.length is None or head.length > _HELD_BODY:
            self._sink.opened(head, raw_head)
        if rest or head.length == 0:
            self.received(rest)

    def _receive_body(self, data: bytes) -> None:
        assert self._head is not None
        head, raw_head = self._head
        if self._left is None:
            self._sink.relay(data)
            return
        if len(data) > self._left:
            raise ValueError("the body is longer than its length")
        self._left -= len(data)
        if head.length is not None and head.length <= _HELD_BODY:
            self._buffer += data
            if not self._left:
                self._settle()
                self._sink.whole(WholeReply(head, raw_head, self._buffer))
            return
        self._sink.relay(data)
        if not self._left:
            self._end()

    def _end(self) -> None:
        self._settle()
        self._sink.ended()

    def _settle(self) -> None:
        """The connection can carry another exchange, unless its replica closes it."""
        assert self._head is not None
        self.resume()
        self._is_settled = True
        if self._head[0].closes:
            self._connection.abort()
        else:
            self._connection.give_back()

    def _fail(self) -> None:
        self.abort()
        self._sink.broken()
