"""The hub: it takes the connections that engines offer, and hands each to the client of its model.

An engine says in its Hello which model it serves. There is one timer for the requests of all models, so a server of
many models wakes up as often as a server of one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from tailrace import ipc
from tailrace.errors import ProtocolError
from tailrace.protocol import Hello, PrefixReport
from tailrace.server.engine_client import EngineClient
from tailrace.server.engine_connection import EngineConnection
from tailrace.server.request_timer import RequestTimer


class EngineHub:
    """See the module."""

    def __init__(self, *, silence_seconds: float) -> None:
        """``silence_seconds``: the shortest silence that a stream must notice."""
        self.timer = RequestTimer(silence_seconds)  #: of the running requests of all models
        #: Called with each report of an engine of the named model, and with None at its end.
        self.on_prefix_report: Callable[[EngineConnection, str, PrefixReport | None], None] | None = None
        self.on_tick: Callable[[], None] | None = None  #: called at each tick of the timer
        self._clients: dict[str, EngineClient] = {}
        self._connected: dict[str, EngineClient] = {}  #: those that have had an engine since the last look
        self._socket: socket.socket | None = None
        self._attaching: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def connected(self) -> Iterable[EngineClient]:
        """The clients with an engine. Most of a thousand models have none, and requests look at these."""
        gone = [name for name, client in self._connected.items() if not client.is_connected]
        for name in gone:
            del self._connected[name]
        return self._connected.values()

    @property
    def capacity(self) -> int:
        """How many generations all connected engines run at the same time."""
        return sum(client.capacity for client in self.connected)

    def add(self, client: EngineClient) -> None:
        """Hand the engines of the client's model to it from now on."""
        self._clients[client.name] = client

    def remove(self, client: EngineClient) -> None:
        """Hand it no further engine."""
        self._clients.pop(client.name, None)
        self._connected.pop(client.name, None)

    async def start(self, sock: socket.socket) -> None:
        """Take connections from engines out of ``sock`` (see ``ipc.connection_hub``)."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._socket = sock
        loop.add_reader(sock.fileno(), self._take_connections)
        self._ticker = loop.create_task(self.timer.run(self._tick))

    async def stop(self) -> None:
        """Close the way; every request still in flight fails."""
        if self._ticker is not None:
            self._ticker.cancel()
        for client in self._clients.values():
            client.close()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # Stopping

    @property
    def in_flight(self) -> int:
        """How many requests the engines of all models work on."""
        return sum(client.in_flight for client in self.connected)

    def begin_stop(self) -> int:
        """See ``EngineClient``, for all models."""
        return sum(client.begin_stop() for client in self._clients.values())

    def end_all(self) -> int:
        """End all requests because the server stops. The number of these."""
        return sum(client.end_all() for client in self._clients.values())

    # The connections' reports

    def on_hello(self, connection: EngineConnection, hello: Hello) -> None:
        """See ``ConnectionOwner``."""
        client = self._clients.get(hello.name)
        if client is None:
            raise ProtocolError(f"an engine serves '{hello.name}', which this server doesn't")
        connection.hand_to(client, client.requests)
        client.on_prefix_report = self.on_prefix_report
        self._connected[client.name] = client
        client.on_hello(connection, hello)

    def on_prefixes(self, connection: EngineConnection, report: PrefixReport) -> None:
        """See ``ConnectionOwner``: one that has said no Hello."""
        raise ProtocolError("an engine has reported prefixes before its Hello")

    def on_connection_lost(self, connection: EngineConnection) -> None:
        """See ``ConnectionOwner``: one that has said no Hello."""

    def _take_connections(self) -> None:
        assert self._socket is not None
        while (sock := ipc.take_connection(self._socket)) is not None:
            sock.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._attach(sock))
            self._attaching.add(task)
            task.add_done_callback(self._attaching.discard)

    async def _attach(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: EngineConnection(self), sock)

    def _tick(self, seconds: float) -> None:
        """The timer ticks, ``seconds`` after the last time."""
        if self.on_tick is not None:
            self.on_tick()
        for client in self.connected:
            client.tick(seconds)
