"""One engine's connection, as the HTTP process sees it: frames in and out, the last heartbeat, and the load."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import Protocol, cast

import structlog

from tailrace.errors import ProtocolError
from tailrace.ipc import FrameDecoder, frame
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.token_gaps import TokenGaps
from tailrace.protocol import Accepted, Cancel, FromEngine, Heartbeat, Hello, PrefixReport, Refused, Step
from tailrace.server.in_flight import InFlightRequests
from tailrace.shared_memory.progress_page import allowed_silence


class ConnectionOwner(Protocol):
    """The client to which a connection reports its beginning and its end."""

    def on_hello(self, connection: EngineConnection, hello: Hello) -> None:
        """The engine is ready. Raises ProtocolError when it can't be used."""
        ...

    def on_prefixes(self, connection: EngineConnection, report: PrefixReport) -> None:
        """The engine has reported the prefixes that it holds."""
        ...

    def on_connection_lost(self, connection: EngineConnection) -> None:
        """The connection has ended."""
        ...


class EngineConnection(asyncio.Protocol):
    """See the module."""

    def __init__(self, owner: ConnectionOwner) -> None:
        """``owner`` gets the Hello, and hands the connection to the client of the Hello's model."""
        self._owner = owner
        self._requests = InFlightRequests()
        self._frames: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
        self._transport: asyncio.Transport | None = None
        self.parallel = 1  #: generations that the engine runs at the same time; known from Hello on
        self.last_heard = time.monotonic()  #: when the engine last sent anything
        self.heartbeat: Heartbeat | None = None  #: the last one
        self.heartbeat_at = self.last_heard  #: when it came
        self.prefixes: PrefixReport | None = None  #: the last report; None: the server is no replica of a cluster
        self.pid = 0  #: the engine's process, known from Hello on
        self.hangs = False  #: whether its requests were failed because it hangs
        self.replica = -1  #: known from Hello on
        self.gaps = TokenGaps()  #: the engine's by its number, from Hello on
        self.kv_cells = 0
        self.in_flight = 0  #: requests that haven't ended
        self.submitted = 0  #: of them generations
        self.accepted = 0  #: of them generations that the engine has accepted

    def hand_to(self, owner: ConnectionOwner, requests: InFlightRequests) -> None:
        """Report to ``owner`` from now on, and pass messages for requests to ``requests``."""
        self._owner, self._requests = owner, requests

    def silence(self, now: float) -> float:
        """Seconds since the engine sent anything, or for which a thread of it has worked on one item."""
        stuck = self.heartbeat.stuck if self.heartbeat is not None else 0.0
        return max(now - self.last_heard, stuck)

    def allowed_silence(self, hang_seconds: float) -> float:
        """Seconds of silence after which the engine is stalled, by the supervisor's rule (``progress_page``)."""
        longest = self.heartbeat.longest_step if self.heartbeat is not None else 0.0
        return allowed_silence(hang_seconds, longest) if hang_seconds else math.inf

    @property
    def load(self) -> int:
        """See ``load_with``."""
        return self.load_with(0)

    def load_with(self, more: int) -> int:
        """Unfinished requests, and ``more``. One that waits counts four times: it waits for a whole reply."""
        in_flight = self.in_flight + more
        return in_flight + 3 * max(0, in_flight - self.parallel)

    @property
    def running(self) -> int:
        """How many of the accepted generations run.

        An engine sends a heartbeat when its queue changes, but not while a step lasts. So accepted ones count as
        running, up to what an engine can run, except for as many as the last heartbeat reported as waiting.
        """
        if self.heartbeat is None:
            return min(self.accepted, self.parallel)
        return max(self.heartbeat.running, min(self.accepted - self.heartbeat.waiting, self.parallel))

    @property
    def figures(self) -> EngineFigures:
        """What this connection alone knows of its engine."""
        waiting = max(0, self.submitted - self.running)
        heartbeat = self.heartbeat or Heartbeat(0, 0, 0)
        found = EngineFigures(
            running=self.running,
            waiting=waiting,
            queued=min(waiting, heartbeat.waiting),
            kv_cells=self.kv_cells,
            kv_cells_used=heartbeat.kv_cells_used,
            counters=heartbeat.counters,
            pid=self.pid,
            connected=True,
            workers=heartbeat.workers,
            speed=heartbeat.speed,
        )
        return replace(found, step_tokens=heartbeat.step_tokens) if heartbeat.step_tokens else found

    @property
    def backlog(self) -> int:
        """Bytes that the engine hasn't taken from its socket yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            self.last_heard = time.monotonic()
            for message in self._frames.feed(data):
                self._dispatch(message)
        except ProtocolError as error:
            structlog.get_logger().error("closing the engine's connection", error=str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._owner.on_connection_lost(self)

    def cancel(self, identity: int) -> None:
        """Send a cancel."""
        self.write(frame(Cancel(identity)))

    def write(self, message: bytes) -> None:
        """Send one framed message."""
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _dispatch(self, message: FromEngine) -> None:
        if isinstance(message, Step):
            self.gaps.step(message.ids, self.last_heard)
            self._requests.on_step(message)
        elif isinstance(message, Heartbeat):
            self.heartbeat, self.heartbeat_at = message, self.last_heard
        elif isinstance(message, PrefixReport):
            self.prefixes = message
            self._owner.on_prefixes(self, message)
        elif isinstance(message, Hello):
            self.replica, self.pid = message.replica, message.pid
            self.kv_cells = message.model.kv_cells
            self.parallel = message.model.parallel
            self._owner.on_hello(self, message)
        elif isinstance(message, Accepted | Refused):
            self._requests.on_answer(message)
        else:
            self._requests.on_query_answer(message)
