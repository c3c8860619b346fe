"""The state of this replica, as a stream to each ingress: everything at first, then what changes.

One timer serves all subscribers, ten times a second, and runs only while there are any. A subscriber that doesn't read
is dropped: it would read an old state, and the memory of what waits for it would grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.cluster_protocol.state import (
    CHANGE_SECONDS,
    HEARTBEAT_SECONDS,
    STATE_VERSION,
    ModelLoad,
    ReplicaPhase,
    ReplicaState,
    StateChange,
    StateHeartbeat,
    StateMessage,
)
from tailrace.protocol import PrefixReport
from tailrace.server import ndjson
from tailrace.server.cluster.held_union import HeldUnion
from tailrace.server.cluster.model_load import load_of
from tailrace.server.engine_connection import EngineConnection
from tailrace.server.models.model_service import ModelService
from tailrace.server.request_cycle import CHUNKED_BODY, RAW_RESPONSE, ChunkedBody, RawResponse

#: Bytes that may wait for a subscriber: several times the largest state.
_MAX_BEHIND = 4_000_000
#: Heartbeats are sent in every so many ticks without a change.
_HEARTBEAT_TICKS = round(HEARTBEAT_SECONDS / CHANGE_SECONDS)


class StateFeed:
    """See the module."""

    def __init__(
        self,
        phase: Callable[[], ReplicaPhase],
        services: Callable[[], Sequence[ModelService]],
        is_drained: Callable[[int], bool],
    ) -> None:
        """``phase``: of the server now; ``services``: its models. ``is_drained``: whether the server stops, and nothing
        is left of its connections but those of so many subscribers.
        """
        self._current_phase = phase
        self._services = services
        self._is_drained = is_drained
        self._held = HeldUnion()
        self._subscribers: set[_Subscriber] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._phase: ReplicaPhase | None = None  #: as of the last message
        self._models: list[ModelLoad] | None = None
        self._quiet_ticks = 0
        self._log = structlog.get_logger()

    def on_prefixes(self, engine: EngineConnection, model: str, report: PrefixReport | None) -> None:
        """An engine of the model has reported, or has ended (None)."""
        if report is None:
            self._held.drop((model, engine.replica))
        else:
            self._held.apply((model, engine.replica), report)

    def response(self) -> Response:
        """The stream to one more subscriber."""
        return _Stream(self)

    def subscribe(self, body: ChunkedBody, connection: RawResponse) -> _Subscriber:
        """Send everything, and from now on what changes."""
        self._send_changes()  # What is published from now on is what the others have, too.
        subscriber = _Subscriber(body, connection)
        for message in self._whole_state():
            subscriber.write(ndjson.line(message))
        self._subscribers.add(subscriber)
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._run())
        return subscriber

    def unsubscribe(self, subscriber: _Subscriber) -> None:
        """The subscriber has gone."""
        self._subscribers.discard(subscriber)
        subscriber.end()
        if not self._subscribers and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CHANGE_SECONDS)
            try:
                self._tick()
            except Exception:
                self._log.exception("publishing the state hit a defect")  # Without messages the replica counts as lost.

    def _tick(self) -> None:
        self._quiet_ticks = 0 if self._send_changes() else self._quiet_ticks + 1
        if self._quiet_ticks >= _HEARTBEAT_TICKS:
            self._quiet_ticks = 0
            self._send(StateHeartbeat())
        if self._is_drained(len(self._subscribers)):
            for subscriber in self._subscribers:
                subscriber.end()

    def _whole_state(self) -> list[StateMessage]:
        """Everything. Of several engines' blocks each part is a message, so that none is too long to be read."""
        assert self._phase is not None, "changes were sent before"
        held = self._held.published()
        state = ReplicaState(version=STATE_VERSION, phase=self._phase, models=self._models or [], held=held[:1])
        return [state, *(StateChange(held=[part]) for part in held[1:])]

    def _send_changes(self) -> bool:
        """Send what has changed; whether anything has."""
        phase, models = self._current_phase(), [load_of(service) for service in self._services()]
        held, removed = self._held.take_changes()
        new_phase, new_models = phase != self._phase, models != self._models
        self._phase, self._models = phase, models
        if new_phase or new_models or removed:
            self._send(
                StateChange(phase=phase if new_phase else None, models=models if new_models else None, removed=removed)
            )
        for part in held:
            self._send(StateChange(held=[part]))
        return new_phase or new_models or bool(removed or held)

    def _send(self, message: StateMessage) -> None:
        line = ndjson.line(message)
        for subscriber in self._subscribers:
            subscriber.write(line)


class _Subscriber:
    """One ingress."""

    def __init__(self, body: ChunkedBody, connection: RawResponse) -> None:
        self._body = body
        self._connection = connection
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, line: bytes) -> None:
        """Write the line, unless the subscriber is too far behind: then its connection ends at once."""
        if self.ended.done():
            return
        if self._body.waiting_bytes > _MAX_BEHIND:
            self._connection.abort()
            self.end()
        else:
            self._body.write(line)

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Stream(Response):
    """The streamed response."""

    def __init__(self, feed: StateFeed) -> None:
        super().__init__()
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the subscriber has gone, or the server has drained."""
        await send({"type": "http.response.start", "status": 200, "headers": ndjson.HEADERS})
        extensions = scope["extensions"]
        subscriber = self._feed.subscribe(extensions[CHUNKED_BODY]["body"], extensions[RAW_RESPONSE]["response"])

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            subscriber.end()

        watcher = asyncio.create_task(watch())
        try:
            await subscriber.ended
        finally:
            watcher.cancel()
            self._feed.unsubscribe(subscriber)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
