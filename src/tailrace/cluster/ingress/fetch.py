"""Small requests of the ingress's own to a replica: its list of models, its metrics, the chain of a prompt."""

from __future__ import annotations

import asyncio

from tailrace.cluster.ingress.exchange import Exchange, WholeReply
from tailrace.cluster.ingress.replicas import Replica
from tailrace.cluster.ingress.response_framing import ResponseHead


class FetchFailedError(Exception):
    """The replica hasn't answered with a 200 in time."""


async def fetch(replica: Replica, method: str, head: bytes, body: bytes = b"", *, seconds: float, limit: int) -> bytes:
    """The body of the replica's answer. ``head``: as ``forwarded_head`` makes it; ``limit``: max bytes of the answer.

    Raises FetchFailedError.
    """
    sink = _Collected(limit)
    exchange: Exchange | None = None
    try:
        async with asyncio.timeout(seconds):
            connection = await replica.pool.connection()
            exchange = Exchange(connection, method, sink)
            exchange.start(head, body)
            reply = await sink.reply
    except (OSError, TimeoutError) as error:
        raise FetchFailedError(str(error) or "no answer in time") from error
    finally:
        if exchange is not None:
            exchange.abort()
    if reply is None or reply.head.status != 200:
        raise FetchFailedError("the connection broke" if reply is None else f"status {reply.head.status}")
    return reply.body


class _Collected:
    """A ``ReplySink`` that collects the whole reply."""

    def __init__(self, limit: int) -> None:
        #: None: there is no whole reply.
        self.reply: asyncio.Future[WholeReply | None] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._head: tuple[ResponseHead, bytes] | None = None
        self._body = bytearray()

    def begun(self) -> None:
        """See ``ReplySink``."""

    def whole(self, reply: WholeReply) -> None:
        """See ``ReplySink``."""
        self._set(reply)

    def opened(self, head: ResponseHead, raw_head: bytes) -> None:
        """See ``ReplySink``. A chunked body isn't expected here."""
        self._head = head, raw_head
        if head.length is None:
            self._set(None)

    def relay(self, data: bytes) -> None:
        """See ``ReplySink``."""
        self._body += data
        if len(self._body) > self._limit:
            self._set(None)

    def ended(self) -> None:
        """See ``ReplySink``."""
        assert self._head is not None
        self._set(WholeReply(*self._head, bytes(self._body)))

    def broken(self) -> None:
        """See ``ReplySink``."""
        self._set(None)

    def _set(self, reply: WholeReply | None) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)
