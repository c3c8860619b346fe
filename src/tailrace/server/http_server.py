"""The HTTP process's server: accepts connections, looks after them once a second, and drains them at the end.

uvicorn provides the protocol and the state that connections share. Its own server would wake up ten times a second,
leave the clients of a stopping server without an answer, and cancel their tasks.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from socket import socket
from typing import Protocol

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from tailrace.server.body_memory import BodyMemory
from tailrace.server.connection_limits import connection_limits
from tailrace.server.connections import Connections, Entry
from tailrace.server.engine_client import shutting_down
from tailrace.server.http_protocol import HttpProtocol
from tailrace.server.listener import Listener
from tailrace.server.memory_trim import MemoryTrim
from tailrace.server.tls import TlsCertificate
from tailrace.settings import Settings

#: Bytes that have come and gone after which freed memory is given back to the system.
_MUCH = 16_000_000
#: Seconds between two looks at what is left while the server stops.
_STOP_TICK = 0.1
#: Seconds for the last bytes of replies, and for the tasks behind them, once all requests have ended.
_FLUSH_SECONDS = 2.0
_TASK_SECONDS = 1.0


class ServedWork(Protocol):
    """What the server has to know of the requests' work."""

    draining: bool  #: set when the server begins to stop

    @property
    def settings(self) -> Settings:
        """Limits of connections, and the time to drain."""
        ...

    @property
    def bodies(self) -> BodyMemory:
        """The memory of requests' bodies."""
        ...

    @property
    def memory_trim(self) -> MemoryTrim:
        """What returns memory to the system."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests are being worked on."""
        ...

    def begin_stop(self) -> int:
        """Refuse what waits, and let what runs finish. How many requests were refused."""
        ...

    def end_all(self) -> int:
        """End what runs with an error. How many requests that were."""
        ...


class HttpServer:
    """See the module."""

    def __init__(
        self, asgi: ASGIApp, sock: socket, app: ServedWork, open_files: int, tls: TlsCertificate | None
    ) -> None:
        """``asgi`` answers the requests. ``open_files``: how many this process may have. ``tls`` None: plain HTTP."""
        config = uvicorn.Config(
            asgi,
            loop="none",
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            ssl_context_factory=None if tls is None else lambda config, make: tls.context,
        )
        config.load()
        self._config = config
        self._app = app
        self._state = ServerState()
        self.connections = Connections(connection_limits(app.settings, open_files))
        self._listener = Listener(sock, self.connections, self._protocol, tls=config.ssl)
        self._max_unsent = 0  #: bytes, since memory was given back
        self._released = 0  #: bytes of bodies, when memory was given back
        self._stop_requested = asyncio.Event()
        self._accepts = True  #: whether the listener is open
        self._log = structlog.get_logger()

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` has been called."""
        return self._stop_requested.is_set()

    def stop(self) -> None:
        """Have ``serve`` return after running replies."""
        self._stop_requested.set()

    def stop_accepting(self) -> None:
        """Leave new connections to another process that listens at the same address. Those that wait are accepted."""
        if self._accepts:
            self._accepts = False
            self._listener.accept_waiting()
            self._listener.close()

    async def serve(self) -> None:
        """Serve until ``stop``, then drain: see docs/operations.md."""
        self._renew_date()
        self._listener.start()
        while not self._stop_requested.is_set():
            try:
                await asyncio.wait_for(self._stop_requested.wait(), 1.0)
            except TimeoutError:
                self._look()
        await self._drain()
        if self._accepts:
            self._listener.close()

    async def _drain(self) -> None:
        app, connections = self._app, self.connections
        app.draining = True
        connections.stop(shutting_down())
        queued = app.begin_stop()
        self._log.info("draining", running=app.in_flight, queued=queued, connections=len(connections))
        if not await self._until_idle(app.settings.drain_seconds):
            ended = app.end_all()
            self._log.warning("the drain time is over", requests_ended=ended, connections=connections.active)
            await self._until_idle(_FLUSH_SECONDS)
        connections.reset_all()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_TASK_SECONDS)

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until no request and no connection with one is left; False when that took longer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._app.in_flight or self.connections.active:
            if loop.time() >= end:
                return False
            await asyncio.sleep(_STOP_TICK)
            self.connections.tick(loop.time())
        return True

    def _look(self) -> None:
        """What is due once a second."""
        try:
            self._renew_date()
            self._return_memory()  # First: what the last look has ended is free by now.
            self.connections.tick(asyncio.get_running_loop().time())
            self._app.bodies.tick()
        except Exception:
            self._log.exception("looking after connections hit a defect")  # Their requests go on.

    def _return_memory(self) -> None:
        """Give memory back once much of what has waited for clients, or of what they have sent, has gone."""
        unsent = self.connections.unsent
        self._max_unsent = max(self._max_unsent, unsent)
        released, trim = self._app.bodies.released, self._app.memory_trim
        if self._max_unsent - unsent + released - self._released > _MUCH:
            self._max_unsent, self._released = unsent, released
            trim.freed()
        trim.tick(asyncio.get_running_loop().time(), idle=not self.connections.active)

    def _protocol(self, address: str, entry: Entry) -> HttpProtocol:
        return HttpProtocol(
            self.connections,
            address,
            status_only=entry == "status",
            config=self._config,
            server_state=self._state,
            app_state={},
        )

    def _renew_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
