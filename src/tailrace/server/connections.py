"""All connections of the HTTP process: how many there may be, what waits for their clients, and one timer for all.

It knows no HTTP. One connection is ``http_protocol``; ``listener`` accepts them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice
from typing import Literal, Protocol

import structlog

from tailrace.errors import RequestError
from tailrace.server.connection_limits import RESERVE, ConnectionLimits

#: What a new connection may ask for; None where there is no place for it.
Entry = Literal["all", "status"] | None

#: Seconds between two log lines about the same shortage.
_LOG_SECONDS = 60.0
#: A client that will have taken all within this time is not slow, however much it is.
_QUICK_SECONDS = 5.0
#: Max waiting connections that are looked at for one to close.
_SEARCH = 64


class Connection(Protocol):
    """One connection, as far as this module needs it. Times are of the event loop's clock, in seconds."""

    address: str  #: of the client

    def check(self, now: float) -> int:
        """Look for limits of time that have passed. The bytes that wait for the client."""
        ...

    def seconds_to_send(self, now: float) -> float:
        """About how long the client will take for what waits for it; 0 while that can't be told."""
        ...

    def reset(self, reason: str) -> None:
        """End at once, and drop what waits for the client."""
        ...

    def close_waiting(self) -> None:
        """End, while no request is being served."""
        ...

    def stop(self, error: RequestError) -> None:
        """Serve no further request: ``error`` is the answer to those that come."""
        ...


class Connections:
    """See the module."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.stopping: RequestError | None = None  #: the answer to new requests once the server has to stop
        self.accepted = 0  #: connections so far
        self.refused = 0  #: of clients for which there was no place
        self.unsent = 0  #: bytes that waited for all clients at the last look
        self.ended = Counter[str]()  #: connections that the server has ended, by reason
        self._open: set[Connection] = set()
        self._by_address = Counter[str]()
        #: Those that wait for a request, in the order in which they began to.
        self._waiting: dict[Connection, None] = {}
        self._reported: dict[str, float] = {}
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def active(self) -> int:
        """How many connections have a request."""
        return len(self._open) - len(self._waiting)

    def admit(self, address: str) -> Entry:
        """What a new connection from ``address`` may ask for. Makes a place for it where another connection waits for
        a request, which its client can repeat.
        """
        limits = self.limits
        if len(self._open) < limits.connections and self._by_address[address] < limits.share:
            if len(self._open) >= limits.share:
                self._report("connections are near their limit", address)
            return "all"
        self._report("connections are at their limit", address)
        if self._make_place(address) and len(self._open) < limits.connections:
            return "all"
        if len(self._open) < limits.connections + RESERVE:
            return "status"
        self.refused += 1
        return None

    def add(self, connection: Connection) -> None:
        """A connection begins, and waits for a request."""
        self.accepted += 1
        self._open.add(connection)
        self._waiting[connection] = None
        self._by_address[connection.address] += 1

    def remove(self, connection: Connection) -> None:
        """A connection has ended, or is about to. Harmless the second time."""
        if connection in self._open:
            self._open.remove(connection)
            self._waiting.pop(connection, None)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def wait(self, connection: Connection) -> None:
        """A connection waits for its next request."""
        if connection in self._open:
            self._waiting[connection] = None

    def serve(self, connection: Connection) -> None:
        """A connection has a request."""
        self._waiting.pop(connection, None)

    def tick(self, now: float) -> None:
        """Look at every connection. Called about once a second."""
        unsent: list[tuple[Connection, int]] = []
        for connection in list(self._open):
            if count := connection.check(now):
                unsent.append((connection, count))
        self.unsent = sum(count for _, count in unsent)
        excess = self.unsent - self.limits.send_memory
        if excess > 0 and len(unsent) > 1:
            self._drop_slowest(unsent, excess, now)

    def out_of_files(self) -> bool:
        """This process can't open another file: close connections that wait for a request. Whether there were any."""
        self._report("no further connection can be accepted: this process has no file left to open", "")
        waiting = list(islice(self._waiting, _SEARCH))
        for connection in waiting:
            self._close(connection)
        return bool(waiting)

    def stop(self, error: RequestError) -> None:
        """Answer new requests with ``error`` from now on, and close connections that wait for one."""
        self.stopping = error
        for connection in list(self._open):
            connection.stop(error)

    def reset_all(self) -> None:
        """End every connection at once."""
        for connection in list(self._open):
            connection.reset("shutdown")

    def report_end(self, reason: str, address: str, unsent: int) -> None:
        """The server has ended a connection, for ``reason``, with so many bytes that weren't sent."""
        self.ended[reason] += 1
        if self._may_log(reason):
            self._log.info(
                "a connection was ended", reason=reason, client=address, unsent_bytes=unsent, so_far=self.ended[reason]
            )

    def _make_place(self, address: str) -> bool:
        """Close a connection that waits for a request: the one that has waited longest of those whose client has at
        least as many connections as the newcomer's.
        """
        mine = self._by_address[address]
        own_only = mine >= self.limits.share
        for connection in list(islice(self._waiting, _SEARCH)):
            if connection.address == address if own_only else self._by_address[connection.address] >= mine:
                self._close(connection)
                return True
        return False

    def _close(self, connection: Connection) -> None:
        self.ended["no_place"] += 1
        connection.close_waiting()
        self.remove(connection)

    def _drop_slowest(self, unsent: list[tuple[Connection, int]], excess: int, now: float) -> None:
        """Reset the connections that would take longest until the rest fits. The last one may have all the memory."""
        ranked = sorted(((entry[0].seconds_to_send(now), *entry) for entry in unsent), key=lambda entry: -entry[0])
        for seconds, connection, count in ranked[:-1]:
            if excess <= 0 or seconds < _QUICK_SECONDS:
                break
            connection.reset("slow_reader")
            excess -= count

    def _report(self, event: str, address: str) -> None:
        if self._may_log(event):
            self._log.warning(
                event,
                open=len(self._open),
                limit=self.limits.connections,
                waiting=len(self._waiting),
                addresses=len(self._by_address),
                from_this_address=self._by_address[address],
            )

    def _may_log(self, event: str) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._reported.get(event, -_LOG_SECONDS) < _LOG_SECONDS:
            return False
        self._reported[event] = now
        return True
