"""The HTTP process's end of the socket: submit → engine messages, cancel, and what happens when an engine dies.

Each replica of the engine has one connection; ``replica_router`` chooses one for a request. An id's messages go to the
``GenerationCallbacks`` it was submitted with, while they are read. When a connection ends, the callbacks of its
requests learn it, so that each request ends in one terminal event whatever dies.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import cast

import structlog

from tailrace.errors import EngineDied, EngineUnavailable, GenerationFailed, ModelError, ProtocolError, RequestError
from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    Cancel,
    Embedded,
    EngineCounters,
    FromEngine,
    Heartbeat,
    Hello,
    Refused,
    Scored,
    Step,
    Submit,
    ToEngine,
    Tokenized,
)
from tailrace.server.callbacks import GenerationCallbacks, Watched
from tailrace.server.engine_query import EngineQuery, PendingQuery
from tailrace.server.replica_router import ReplicaRouter
from tailrace.server.served_model import ServedModel

#: How often requests are looked at, at least.
_TICK_SECONDS = 0.5


class EngineClient:
    """The way to the engines. ``on_ready`` is called with every engine that has said Hello, ``on_unusable`` when its
    model can't be used here, which another engine wouldn't change.
    """

    def __init__(self, *, wait_seconds: float, stall_seconds: float, silence_seconds: float) -> None:
        self.model: ServedModel | None = None  #: the last engine's; kept while a new one starts
        self.engine_starts = 0
        self.on_ready: Callable[[ServedModel], None] | None = None
        self.on_unusable: Callable[[ModelError], None] | None = None
        self._wait_seconds = wait_seconds
        self._stall_seconds = stall_seconds
        self._tick_seconds = min(_TICK_SECONDS, silence_seconds / 4)
        #: What is in flight: who hears of it, and at which engine.
        self._requests: dict[int, tuple[GenerationCallbacks, _Connection]] = {}
        self._watched: set[Watched] = set()
        self._next_id = 1
        self._connections: dict[int, _Connection] = {}  #: by replica; those that have said Hello
        self._router = ReplicaRouter()
        self._ready = asyncio.Event()
        self._server: asyncio.AbstractServer | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def state(self) -> str:
        """``ok`` while one engine makes progress; ``loading`` when none is connected; ``stalled`` when no loop of
        those that are has shown a sign of life.
        """
        if not self._connections:
            return "loading"
        return "ok" if self.replicas_ready else "stalled"

    @property
    def replicas_ready(self) -> int:
        """How many engines make progress."""
        return len(self._alive())

    @property
    def counters(self) -> EngineCounters:
        """The counters of all engines, added up, as of their last heartbeats."""
        return sum((beat.counters for beat in self._heartbeats()), EngineCounters())

    @property
    def kv_cells_used(self) -> int:
        """How many KV cells of all engines hold tokens, as of their last heartbeats."""
        return sum(beat.kv_cells_used for beat in self._heartbeats())

    def _heartbeats(self) -> list[Heartbeat]:
        beats = [connection.heartbeat for connection in self._connections.values()]
        return [beat for beat in beats if beat is not None]

    @property
    def running(self) -> int:
        """How many generations the engines work on.

        An engine sends a heartbeat when its queue changes, but not while a step lasts. So accepted requests count as
        running, up to what an engine can run, except for as many as the last heartbeat reported as waiting.
        """
        accepted = dict.fromkeys(self._connections.values(), 0)
        for receiver, connection in self._requests.values():
            if receiver.state == "accepted" and connection in accepted:
                accepted[connection] += 1
        return sum(connection.running(count) for connection, count in accepted.items())

    @property
    def waiting(self) -> int:
        """How many generations have been submitted and don't run yet."""
        submitted = sum(receiver.state != "inquiry" for receiver, _ in self._requests.values())
        return max(0, submitted - self.running)

    @property
    def kv_cells(self) -> int:
        """How many cells the KV caches of all engines may have."""
        return sum(connection.kv_cells for connection in self._connections.values())

    def accepted(self) -> list[GenerationCallbacks]:
        """The generations that have been accepted and haven't ended, oldest first."""
        return [receiver for receiver, _ in self._requests.values() if receiver.state == "accepted"]

    async def start(self, sock: socket.socket) -> None:
        """Listen for engines on ``sock`` (a listening Unix socket)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=sock)
        self._ticker = loop.create_task(self._tick())

    async def stop(self) -> None:
        """Close the way; every request still in flight fails."""
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in self._connections.values():
            connection.close()
        if self._server is not None:
            self._server.close()

    async def ready(self) -> ServedModel:
        """The model, once an engine is connected. Raises EngineUnavailable after the waiting time."""
        if not self._ready.is_set():
            try:
                await asyncio.wait_for(self._ready.wait(), self._wait_seconds)
            except TimeoutError:
                raise EngineUnavailable("The model is still loading or its engine is restarting; try again.") from None
        return cast(ServedModel, self.model)

    def submit(self, make: Callable[[int], Submit], receiver: GenerationCallbacks) -> int:
        """Send the submit that ``make`` makes for a new id; its messages go to ``receiver``.

        Raises EngineUnavailable when no engine is connected.
        """
        if not self._connections:
            raise EngineUnavailable("The engine is restarting; try again.")
        identity = self._next_id
        self._next_id += 1
        submit = make(identity)
        message = frame(submit)  # What can't be sent isn't registered.
        self._register(identity, receiver, self._route(submit), message)
        return identity

    def ask(self, make: Callable[[int], EngineQuery], answers: int, *, param: str) -> PendingQuery:
        """Send the inquiry that ``make`` makes for a new id, which gets so many answers; ``param`` is the field to name
        when it is refused. Raises EngineUnavailable when no engine is connected.
        """
        if not self._connections:
            raise EngineUnavailable("The engine is restarting; try again.")
        identity = self._next_id
        self._next_id += 1
        message = frame(make(identity))
        inquiring = PendingQuery(answers, param, lambda: self.cancel(identity))
        able = self._alive() or self._connections.values()
        self._register(identity, inquiring, min(able, key=lambda entry: entry.load), message)
        return inquiring

    def _register(self, identity: int, receiver: GenerationCallbacks, connection: _Connection, message: bytes) -> None:
        """Send the message; what comes back goes to ``receiver``."""
        self._requests[identity] = (receiver, connection)
        connection.in_flight += 1
        try:
            connection.write(message)
        except BaseException:
            del self._requests[identity]
            connection.in_flight -= 1
            raise

    def cancel(self, identity: int) -> None:
        """Stop a generation that hasn't ended; harmless for one that has."""
        if (entry := self._requests.pop(identity, None)) is not None:
            entry[1].in_flight -= 1
            entry[1].send(Cancel(identity))

    def _alive(self) -> list[_Connection]:
        now = time.monotonic()
        return [entry for entry in self._connections.values() if now - entry.heard <= self._stall_seconds]

    def _route(self, submit: Submit) -> _Connection:
        connections = self._connections
        if len(connections) == 1:
            return next(iter(connections.values()))
        prompt = submit.prompt if isinstance(submit.prompt, list) else submit.prompt.text
        # What is in flight is known here at once and exactly; heartbeats tell the same up to half a second later.
        able = self._alive() or connections.values()
        return connections[self._router.choose(prompt, {entry.replica: entry.load for entry in able})]

    def watch(self, request: Watched) -> None:
        """Have ``request`` looked at from now on."""
        self._watched.add(request)

    def unwatch(self, request: Watched) -> None:
        """Leave ``request`` alone; harmless when nobody looks at it."""
        self._watched.discard(request)

    # What _Connection calls

    def _connected(self, connection: _Connection, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"the engine speaks protocol {hello.protocol}, this process {PROTOCOL_VERSION}")
        if hello.replica in self._connections:
            raise ProtocolError(f"a second engine has connected as replica {hello.replica}")
        try:
            self.model = ServedModel(hello)
        except ModelError as error:
            if self.on_unusable is not None:
                self.on_unusable(error)
            raise ProtocolError(str(error)) from error
        self.engine_starts += 1
        self._connections[hello.replica] = connection
        self._ready.set()
        if (defect := self.model.template.defect) is not None:
            self._log.error("conversations are refused: set --chat-template", reason=defect)
        if self.on_ready is not None:
            self.on_ready(self.model)

    def _disconnected(self, connection: _Connection) -> None:
        if self._connections.get(connection.replica) is not connection:
            return
        del self._connections[connection.replica]
        self._router.forget(connection.replica)
        if not self._connections:
            self._ready.clear()
        lost = {identity: entry[0] for identity, entry in self._requests.items() if entry[1] is connection}
        if lost:
            self._log.error("the engine is gone", requests_lost=len(lost), replica=connection.replica)
        # All of them first: what a receiver then cancels of its other replies must not be sent to the dead.
        for identity in lost:
            del self._requests[identity]
        for receiver in lost.values():
            self._fail(
                receiver,
                EngineDied("The engine died while it worked on this request; a new one is starting. Try again."),
            )

    def _fail(self, receiver: GenerationCallbacks, error: RequestError) -> None:
        try:
            receiver.failed(error)
        except Exception as defect:
            receiver.broke(defect)

    def _step(self, step: Step) -> None:
        # An id may be unknown: what was cancelled a moment ago still gets what was on its way.
        requests = self._requests
        for progress in step.progress:
            if (entry := requests.get(progress.id)) is not None:
                entry[0].progressed(progress)
        for started in step.started:
            if (entry := requests.get(started.id)) is not None:
                entry[0].begun(started.cached_tokens, started.prompt_seconds)
        for predicted in step.predicted:
            # Before the tokens: a stop string in them ends the request.
            if (entry := requests.get(predicted.id)) is not None:
                entry[0].predicted(predicted)
        tokens, logprobs = step.tokens, step.logprobs
        for index, identity in enumerate(step.ids):
            if (entry := requests.get(identity)) is not None:
                try:
                    entry[0].token(tokens[index], logprobs.get(index) if logprobs else None)
                except Exception as error:
                    # One request's defect ends that request alone: its own task raises it.
                    self.cancel(identity)
                    entry[0].broke(error)
        for finished in step.finished:
            if (entry := requests.pop(finished.id, None)) is not None:
                receiver, connection = entry
                connection.in_flight -= 1
                try:
                    receiver.ended(finished)
                except Exception as error:
                    receiver.broke(error)
        for failed in step.failed:
            self._log.error("a generation has failed", error=failed.message)
            if (entry := requests.pop(failed.id, None)) is not None:
                entry[1].in_flight -= 1
                self._fail(entry[0], GenerationFailed(f"The reply can't be continued: {failed.message}."))

    def _answered(self, answer: Accepted | Refused) -> None:
        if (entry := self._requests.get(answer.id)) is not None:
            receiver, connection = entry
            if isinstance(answer, Refused):
                del self._requests[answer.id]
                connection.in_flight -= 1
            receiver.answered(answer)

    def _told(self, answer: Tokenized | Embedded | Scored) -> None:
        # Unknown when nobody waits for it any more.
        if (entry := self._requests.get(answer.id)) is not None:
            inquiring, connection = entry
            assert isinstance(inquiring, PendingQuery), "a generation isn't answered so"
            if inquiring.told(answer):
                del self._requests[answer.id]
                connection.in_flight -= 1

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            for request in list(self._watched):
                try:
                    request.tick(self._tick_seconds)
                except Exception as error:
                    self.unwatch(request)
                    request.broke(error)


class _Connection(asyncio.Protocol):
    """One engine's connection."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._frames: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
        self._transport: asyncio.Transport | None = None
        self.heard = time.monotonic()
        self.heartbeat: Heartbeat | None = None
        self.replica = -1  #: known from Hello on
        self.kv_cells = 0
        self.in_flight = 0  #: requests that haven't ended
        self._parallel = 1

    @property
    def load(self) -> int:
        """Unfinished requests. One that waits counts four times: it waits for a whole reply."""
        return self.in_flight + 3 * max(0, self.in_flight - self._parallel)

    def running(self, accepted: int) -> int:
        """How many generations run, of which so many that haven't ended have been accepted."""
        if self.heartbeat is None:
            return min(accepted, self._parallel)
        return max(self.heartbeat.running, min(accepted - self.heartbeat.waiting, self._parallel))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self.heard = time.monotonic()
            for message in self._frames.feed(data):
                self._receive(message)
        except ProtocolError as error:
            structlog.get_logger().error("closing the engine's connection", error=str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client._disconnected(self)

    def send(self, message: ToEngine) -> None:
        self.write(frame(message))

    def write(self, message: bytes) -> None:
        assert self._transport is not None
        self._transport.write(message)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _receive(self, message: FromEngine) -> None:
        if isinstance(message, Step):
            self._client._step(message)
        elif isinstance(message, Heartbeat):
            self.heartbeat = message
        elif isinstance(message, Hello):
            self.replica = message.replica
            self.kv_cells = message.model.kv_cells
            self._parallel = message.model.parallel
            self._client._connected(self, message)
        elif isinstance(message, Accepted | Refused):
            self._client._answered(message)
        else:
            self._client._told(message)
