"""Connections to one replica: a pool of idle ones, and one protocol for each.

A connection carries one exchange at a time. Bytes that come without one end it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

#: Idle connections that are kept for the next requests. A replica closes idle ones after 75 s.
_MAX_IDLE = 256
#: Seconds for a connection to be made: the replica is near, and its channel says that it is there.
_CONNECT_SECONDS = 1.5


class Receiver(Protocol):
    """What a connection's bytes belong to."""

    def received(self, data: bytes) -> None:
        """Bytes of the response."""
        ...

    def broken(self) -> None:
        """The connection has ended."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One connection. ``receiver`` is set while it carries an exchange."""

    transport: asyncio.Transport

    def __init__(self, pool: UpstreamPool) -> None:
        self.receiver: Receiver | None = None
        self.is_fresh = True  #: it has carried no exchange yet
        self._pool = pool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.receiver is None:
            self.transport.abort()
        else:
            self.receiver.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._pool.forget(self)
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.broken()

    def give_back(self) -> None:
        """The exchange is over, and the connection can carry another one."""
        self.receiver = None
        self.is_fresh = False
        self._pool.take_back(self)

    def abort(self) -> None:
        """End at once: the exchange is of no use any more."""
        self.receiver = None
        self._pool.forget(self)
        self.transport.abort()


class UpstreamPool:
    """The connections of one replica."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._closed = False

    async def connection(self, *, fresh: bool = False) -> UpstreamConnection:
        """An idle connection, the last used first, or a new one. Raises OSError and TimeoutError.

        ``fresh``: a new one, because an idle one may have been closed at the same moment.
        """
        while self._idle and not fresh:
            found = self._idle.pop()
            if not found.transport.is_closing():
                return found
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: UpstreamConnection(self), *self._address
            )
        if self._closed:  # The replica was lost meanwhile, and nothing would report that again.
            made.transport.abort()
            raise ConnectionAbortedError("the replica is gone")
        self._open.add(made)
        return made

    def take_back(self, connection: UpstreamConnection) -> None:
        """A connection is idle."""
        if self._closed or len(self._idle) >= _MAX_IDLE or connection.transport.is_closing():
            connection.transport.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """No further exchange begins: idle connections end, and the others with their exchange."""
        self._closed = True
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    def abort(self) -> None:
        """The replica is lost: end every connection now. Its exchanges learn that it is broken."""
        self._closed = True
        for connection in list(self._open):
            receiver, connection.receiver = connection.receiver, None
            connection.transport.abort()
            if receiver is not None:
                receiver.broken()
        self._open.clear()
        self._idle.clear()
