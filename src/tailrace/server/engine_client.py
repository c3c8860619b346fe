"""The HTTP process's end of the sockets to one model's engines: submit, query, cancel, and the end of an engine.

Each replica of the engine has one connection, which ``models.engine_hub`` hands over; ``replica_router`` chooses one
for a request. ``in_flight`` passes an engine's messages to the request that they are for. When a connection ends, its
requests fail, so that each request ends in one terminal event whatever dies.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import msgspec
import structlog

from tailrace.errors import EngineDied, EngineUnavailable, ModelError, ProtocolError, RequestError, ShuttingDown
from tailrace.ipc import frame
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.token_gaps import TokenGaps
from tailrace.protocol import (
    PROTOCOL_VERSION,
    EngineCounters,
    EngineQuery,
    Heartbeat,
    Hello,
    ModelInfo,
    PrefixReport,
    Submit,
)
from tailrace.server.callbacks import GenerationCallbacks
from tailrace.server.engine_connection import EngineConnection
from tailrace.server.engine_query import PendingQuery
from tailrace.server.in_flight import InFlightRequests
from tailrace.server.known_prompts import KnownPrompts
from tailrace.server.replica_router import ReplicaRouter
from tailrace.server.request_timer import RequestTimer
from tailrace.server.served_model import ServedModel

#: Seconds that the supervisor has to end an engine that hangs, before its requests fail without that.
_KILL_SECONDS = 3.0

#: Bytes that may wait for an engine to take them from its socket. A cancel doesn't free them, so requests to an engine
#: that hangs would fill the memory.
_MAX_BACKLOG = 32_000_000


class EngineClient:
    """The way to the engines of one model. ``on_ready`` is called with the model of every engine that has said Hello,
    ``on_lost`` when the last engine has gone, and ``on_unusable`` when this process can't use the model: another engine
    of the same model wouldn't change that.
    """

    def __init__(self, name: str, timer: RequestTimer, *, wait_seconds: float, hang_seconds: float) -> None:
        """``name``: the model's; ``timer``: of the running requests; ``wait_seconds``: how long a request waits for an
        engine; ``hang_seconds``: how long an engine may be silent before it counts as stalled, if its steps are short;
        0: for ever.
        """
        self.name = name
        self.timer = timer
        self.model: ServedModel | None = None  #: the last engine's; it stays while a new engine starts
        self.engine_starts = 0
        self.stopping = False  #: no request is begun any more
        self.on_ready: Callable[[ServedModel], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_unusable: Callable[[ModelError], None] | None = None
        self.known_prompts: KnownPrompts | None = None  #: of texts that needn't be tokenised; only in a cluster
        #: Called with each report of an engine's prefixes and this model's name, and with None at the engine's end.
        self.on_prefix_report: Callable[[EngineConnection, str, PrefixReport | None], None] | None = None
        self.requests = InFlightRequests()
        self._wait_seconds = wait_seconds
        self._hang_seconds = hang_seconds
        self._connections: dict[int, EngineConnection] = {}  #: by replica; those that have said Hello
        self._gaps: defaultdict[int, TokenGaps] = defaultdict(TokenGaps)  #: by replica
        self._router = ReplicaRouter()
        self._ready = asyncio.Event()
        self._refusal: Callable[[], RequestError] | None = None
        self._log = structlog.get_logger()

    # Health and metrics

    @property
    def state(self) -> str:
        """``ok`` while one engine makes progress; ``stalled`` when every connected engine has been silent for too long.
        When none is connected, ``loading`` before the first one and ``restarting`` afterwards.
        """
        if not self._connections:
            return "restarting" if self.engine_starts else "loading"
        return "ok" if self.replicas_ready else "stalled"

    @property
    def is_connected(self) -> bool:
        """Whether there is an engine, which may be stalled."""
        return bool(self._connections)

    @property
    def replicas_ready(self) -> int:
        """How many engines make progress."""
        return len(self._alive())

    @property
    def counters(self) -> EngineCounters:
        """The counters of all engines, added up, as of their last heartbeats."""
        return sum((heartbeat.counters for heartbeat in self._heartbeats()), EngineCounters())

    @property
    def kv_cells_used(self) -> int:
        """How many KV cells of all engines hold tokens, as of their last heartbeats."""
        return sum(heartbeat.kv_cells_used for heartbeat in self._heartbeats())

    @property
    def kv_cells(self) -> int:
        """How many cells the KV caches of all engines may have."""
        return sum(connection.kv_cells for connection in self._connections.values())

    @property
    def model_info(self) -> ModelInfo | None:
        """See ``EngineState``."""
        return None if self.model is None else self.model.info

    def figures(self, replica: int) -> EngineFigures:
        """See ``EngineState``."""
        connection = self._connections.get(replica)
        gaps = self._gaps[replica].seconds
        if connection is None:
            return EngineFigures(token_gaps=gaps)
        return replace(
            connection.figures,
            generating_tokens=self.requests.generating_tokens(connection),
            token_gaps=gaps,
            stalled=self.is_stalled(connection),
        )

    @property
    def running(self) -> int:
        """How many generations the engines work on."""
        return sum(connection.running for connection in self._connections.values())

    @property
    def waiting(self) -> int:
        """How many generations have been submitted and don't run yet."""
        return max(0, self.requests.n_generations - self.running)

    @property
    def unanswered(self) -> int:
        """How many of the waiting ones have not been accepted: their texts are being tokenised, or their grammars
        compiled.
        """
        return sum(connection.submitted - connection.accepted for connection in self._connections.values())

    @property
    def capacity(self) -> int:
        """How many generations all connected engines run at the same time."""
        return sum(connection.parallel for connection in self._connections.values())

    def replica_of(self, identity: int) -> int:
        """The engine that a generation in flight was sent to."""
        return self.requests.replica_of(identity)

    def accepted_generations(self) -> list[GenerationCallbacks]:
        """The generations that have been accepted and haven't ended, oldest first."""
        return [generation for generation in self.requests.generations if generation.accepted]

    @property
    def connections(self) -> list[EngineConnection]:
        """The engines that are connected, by replica."""
        return [connection for _, connection in sorted(self._connections.items())]

    def is_stalled(self, connection: EngineConnection) -> bool:
        """Whether an engine makes no progress."""
        return connection not in self._alive()

    def oldest_wait(self) -> float:
        """Seconds since the oldest waiting generation was submitted; 0 where none waits."""
        return self.requests.oldest_wait(self.waiting)

    # Requests

    @property
    def is_ready(self) -> bool:
        """Whether ``ready`` returns or raises at once."""
        return self._ready.is_set()

    async def ready(self) -> ServedModel:
        """The model, once an engine is connected. Raises EngineUnavailable after the waiting time, ShuttingDown once
        the server has to stop, and the error of ``refuse``.
        """
        if not self._ready.is_set():
            try:
                await asyncio.wait_for(self._ready.wait(), self._wait_seconds)
            except TimeoutError:
                raise EngineUnavailable("The model is still loading or its engine is restarting; try again.") from None
        if self.stopping:
            raise shutting_down()
        if self._refusal is not None:
            raise self._refusal()
        return cast(ServedModel, self.model)

    def refuse(self, error: Callable[[], RequestError]) -> None:
        """No engine will connect: requests that wait for one fail, each with an error of its own, until ``expect``."""
        self._refusal = error
        self._ready.set()

    def expect(self) -> None:
        """An engine may connect: requests wait for it."""
        self._refusal = None
        if not self._connections and not self.stopping:
            self._ready.clear()

    def submit(self, make: Callable[[int], Submit], callbacks: GenerationCallbacks) -> int:
        """Send the submit that ``make`` makes for a new id; its messages go to ``callbacks``. Returns the id.

        Raises EngineUnavailable when no engine is connected.
        """
        return self.submit_copies(lambda identity, numbers: make(identity), [callbacks])[0]

    def submit_copies(self, make: Callable[[int, range], Submit], choices: Sequence[GenerationCallbacks]) -> list[int]:
        """Send submits for all replies to one prompt; each one's messages go to its entry of ``choices``. Returns their
        ids. ``make`` makes the submit of the replies of these numbers, whose ids begin with the given one.

        The prompt is sent once to each engine that gets replies. Raises EngineUnavailable when no engine is connected.
        """
        self._check_connected()
        first = self.requests.new_id(len(choices))
        submit = self._filled(make(first, range(len(choices))))
        start = 0
        for connection, count in self._spread(submit):
            if count < len(choices):
                submit = self._filled(make(first + start, range(start, start + count)))
            self.requests.register(first + start, choices[start : start + count], connection, frame(submit))
            start += count
        return [*range(first, first + len(choices))]

    def _filled(self, submit: Submit) -> Submit:
        return submit if self.known_prompts is None else self.known_prompts.fill(submit)

    def query(self, make: Callable[[int], EngineQuery], answers: int, *, param: str, caller: str = "") -> PendingQuery:
        """Send the query that ``make`` makes for a new id and that gets ``answers`` answers, for the caller of this
        identity. ``param`` is the field to name when it is refused. Raises EngineUnavailable when no engine is
        connected.
        """
        self._check_connected()
        identity = self.requests.new_id()
        message = frame(msgspec.structs.replace(make(identity), caller=caller))
        query = PendingQuery(answers, param, lambda: self.cancel(identity))
        able = self._alive() or self._connections.values()
        self.requests.register(identity, [query], min(able, key=lambda connection: connection.load), message)
        return query

    @property
    def in_flight(self) -> int:
        """How many requests, queries included, haven't ended."""
        return len(self.requests)

    def begin_stop(self) -> int:
        """Begin no request any more, and end those that wait in an engine's queue. The number of these.

        The engines' heartbeats tell how many wait, but not which: the newest of those without a token are ended.
        """
        self.stopping = True
        self._ready.set()  # What waits for an engine gets its error.
        without_tokens = [generation for generation in self.requests.generations if not generation.has_tokens]
        queued = {id(generation) for generation in without_tokens[max(0, len(without_tokens) - self.waiting) :]}
        return self.requests.fail(lambda request: id(request) in queued, shutting_down)

    def end_all(self) -> int:
        """End all requests because the server stops. The number of these."""
        return self.requests.fail(lambda request: True, shutting_down)

    def cancel(self, identity: int) -> None:
        """Stop a request that hasn't ended; harmless for one that has."""
        self.requests.cancel(identity)

    def _check_connected(self) -> None:
        if not self._connections:
            raise EngineUnavailable("The engine is restarting; try again.")
        if all(connection.backlog > _MAX_BACKLOG for connection in self._connections.values()):
            raise EngineUnavailable("The engine takes no requests at the moment; try again.")

    def _spread(self, submit: Submit) -> list[tuple[EngineConnection, int]]:
        """The connections of the engines that get the submit's copies, and how many each gets."""
        connections = self._connections
        if len(connections) == 1:
            return [(next(iter(connections.values())), submit.copies)]
        prompt = submit.prompt if isinstance(submit.prompt, list) else submit.prompt.text
        # The number in flight is known here at once; a heartbeat reports it up to half a second later.
        able = self._alive() or connections.values()
        loads = {entry.replica: [entry.load_with(more) for more in range(submit.copies)] for entry in able}
        spread = self._router.spread(prompt, submit.copies, loads)
        return [(connections[replica], count) for replica, count in spread.items()]

    def _alive(self) -> list[EngineConnection]:
        now = time.monotonic()
        allowed = self._hang_seconds
        return [entry for entry in self._connections.values() if entry.silence(now) <= entry.allowed_silence(allowed)]

    def _heartbeats(self) -> list[Heartbeat]:
        heartbeats = [connection.heartbeat for connection in self._connections.values()]
        return [heartbeat for heartbeat in heartbeats if heartbeat is not None]

    # Life

    def forget_model(self) -> None:
        """Free the memory of a model that is unloaded. Its next engine brings it again."""
        if not self._connections:
            self.model = None

    def close(self) -> None:
        """Close the connections; every request still in flight fails."""
        for connection in self._connections.values():
            connection.close()

    def tick(self, seconds: float) -> None:
        """The timer ticks, ``seconds`` after the last time."""
        # After a pause of this process itself, the engines' messages are still to be read.
        if seconds < _KILL_SECONDS:
            self._fail_hanging()

    def _fail_hanging(self) -> None:
        """Fail the requests of engines that hang. The supervisor kills these, but a kernel call may delay their end."""
        now = time.monotonic()
        for connection in self._connections.values():
            overdue = connection.silence(now) - connection.allowed_silence(self._hang_seconds)
            if overdue > _KILL_SECONDS and not connection.hangs:
                connection.hangs = True
                self._log.error("the engine makes no progress", replica=connection.replica)
                connection.close()

    # The connections' reports

    def on_hello(self, connection: EngineConnection, hello: Hello) -> None:
        """See ``ConnectionOwner``."""
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"the engine speaks protocol {hello.protocol}, this process {PROTOCOL_VERSION}")
        if (previous := self._connections.get(hello.replica)) is not None:
            # The supervisor starts an engine after the last one's end, which is noticed only now.
            previous.close()
            self.on_connection_lost(previous)
        try:
            self.model = ServedModel(hello) if self.model is None else self.model.renewed(hello)
        except ModelError as error:
            if self.on_unusable is not None:
                self.on_unusable(error)
            raise ProtocolError(str(error)) from error
        self.engine_starts += 1
        if self.known_prompts is not None:
            self.known_prompts.clear()
        self._connections[hello.replica] = connection
        connection.gaps = self._gaps[hello.replica]
        connection.gaps.clear()
        self._refusal = None
        self._ready.set()
        if (defect := self.model.template.defect) is not None:
            self._log.error("conversations are refused: set --chat-template", reason=defect)
        if self.on_ready is not None:
            try:
                self.on_ready(self.model)
            except Exception:
                self._log.exception("the engine is ready, but that couldn't be announced")

    def on_prefixes(self, connection: EngineConnection, report: PrefixReport) -> None:
        """See ``ConnectionOwner``."""
        if self.on_prefix_report is not None:
            self.on_prefix_report(connection, self.name, report)

    def on_connection_lost(self, connection: EngineConnection) -> None:
        """See ``ConnectionOwner``."""
        if self._connections.get(connection.replica) is not connection:
            return
        del self._connections[connection.replica]
        if self.on_prefix_report is not None:
            self.on_prefix_report(connection, self.name, None)
        self._router.forget(connection.replica)
        if not self._connections and not self.stopping:
            self._ready.clear()
        lost = self.requests.fail_all(
            connection,
            lambda: EngineDied("The engine died while it worked on this request; a new one is starting. Try again."),
        )
        if lost:
            self._log.error("the engine is gone", requests_lost=lost, replica=connection.replica)
        if not self._connections and self.on_lost is not None:
            self.on_lost()


def shutting_down() -> ShuttingDown:
    """The error of requests that a server can't serve because it stops."""
    return ShuttingDown("The server is shutting down; try again, or use another one.")
