"""The state of the HTTP process that every route needs: settings, engine client, metrics, and shared steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailrace.chat.template_limits import RenderTakesLong, rendering_briefly
from tailrace.cluster_protocol.state import ReplicaPhase
from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.errors import RequestError
from tailrace.machine.cgroup import read_throttling
from tailrace.machine.plan import MachinePlan
from tailrace.models.derived_models import DerivedModels
from tailrace.models.store import default_folder
from tailrace.observe.metrics import Metrics
from tailrace.observe.telemetry import start_export
from tailrace.prompt_text import PromptText
from tailrace.protocol import Tokenize, Tokenized
from tailrace.server import sse
from tailrace.server.admission import AdmissionQueue, QueuePlace
from tailrace.server.body_memory import BodyMemory
from tailrace.server.browsers.guard import BrowserGuard, check_open_management
from tailrace.server.caller import caller_of, current_caller, place_of
from tailrace.server.cluster.prompt_probe import end_probe, is_probe
from tailrace.server.cluster.state_feed import StateFeed
from tailrace.server.collected_reply import CollectedReply
from tailrace.server.dashboard.state import Dashboard
from tailrace.server.engine_wait import wait_for_engine, while_connected
from tailrace.server.fair_threads import FairThreads
from tailrace.server.forwarding import Forwarding, is_forwarded, report_begun
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.json_body import Truncated, decode
from tailrace.server.json_response import json_response
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.memory_trim import MemoryTrim
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.models.file_abilities import FileAbilities
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_scheduler import ModelScheduler
from tailrace.server.models.model_service import LoadOrders, ModelService
from tailrace.server.models.model_turn import ModelGate, OpenGate
from tailrace.server.models.request_turn import take_turn
from tailrace.server.open_streams import OpenStreams
from tailrace.server.postgres.database import Database
from tailrace.server.request_body import read_body
from tailrace.server.request_cycle import REQUEST_BODY
from tailrace.server.request_limits import RequestLimits
from tailrace.server.request_log import STARTED, RequestLog
from tailrace.server.request_scope import (
    BODY,
    DEADLINES,
    HANDLER_TIMEOUT,
    IS_ADMITTED,
    MODEL_TURN,
    QUEUE_PLACE,
    release_body,
)
from tailrace.server.served_model import ServedModel
from tailrace.server.stats import ServerStats, server_stats
from tailrace.server.stats_source import StatsSource
from tailrace.server.stream_encoder import Encoder
from tailrace.server.streaming import EventStream
from tailrace.server.text_queries import TextQueries, claim_tokens
from tailrace.server.tls import certificate
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

Made = TypeVar("Made")
Payload = TypeVar("Payload")

#: Bodies of requests from this size in bytes are decoded and rendered on a thread, and whole replies are built on one.
#: A smaller one has up to 2,000 messages, which take 30 ms.
_LARGE = 64_000
#: Max threads that do so: each takes a part of this process's time from the event loop.
_LARGE_AT_ONCE = 2
#: Prompt tokens that may wait, where ``queue_tokens`` is 0. A waiting token takes about 100 bytes of memory.
_QUEUE_TOKENS = 1_000_000


class AppState:
    """See the module. There is one in the process."""

    def __init__(
        self,
        settings: Settings,
        models: Sequence[ModelSpec],
        *,
        orders: LoadOrders | None = None,
        memory: int = 0,
        plan: MachinePlan | None = None,
    ) -> None:
        """``models``: all that are served, the default first. ``orders``: how they are loaded and unloaded, within
        ``memory`` bytes together; None: their engines start with the server and stay. ``plan``: the machine's.

        Raises ConfigurationError.
        """
        self.settings = settings
        self.created = int(time.time())
        self.hub = EngineHub(silence_seconds=settings.keepalive_seconds)
        self.metrics = Metrics(several=orders is not None)
        self.metrics.read_throttling = read_throttling
        self.hardware = DeviceWatch()  #: this machine's devices: no other process of the server reads them
        self.metrics.read_devices = self.hardware.latest
        export = start_export(settings.otlp_endpoint, settings.host, settings.port)
        self.request_log = RequestLog(
            lines=settings.access_log,
            prompts=settings.log_prompts,
            on_request=None if export is None else export.request_ended,
        )
        self.open_streams = OpenStreams()
        self._plan = plan
        self.bodies = BodyMemory(settings.body_memory_mb * 1_000_000, settings.body_seconds)
        self.draining = False  #: whether the server stops: running replies finish, and new requests are refused
        self.on_reload: list[Callable[[], None]] = []  #: called at a SIGHUP, each reads its files again
        self.admission = AdmissionQueue(
            max_waiting=settings.queue_requests,
            max_waiting_tokens=settings.queue_tokens or _QUEUE_TOKENS,
            capacity=self._capacity,
        )
        self.metrics.queue = self.admission
        self.on_start: list[Callable[[], None]] = []  #: called on the event loop before the first request
        self.on_shutdown: list[Callable[[], None]] = []  #: called when the process ends
        self.keys = KeyRing(settings)
        self.on_reload.append(self.keys.reload)
        self.on_start.append(self.keys.start)
        self.on_shutdown.append(self.keys.close)
        self.certificate = certificate(settings)
        if self.certificate is not None:
            self.on_reload.append(self.certificate.reload)
        if export is not None:
            self.on_shutdown.append(export.stop)
        self.guard = BrowserGuard(settings)
        self.forwarding = Forwarding(settings.cluster_secret)
        self.state_feed: StateFeed | None = None  #: what the cluster's ingresses get; None: there are none
        if settings.cluster_secret is not None:
            self.state_feed = StateFeed(self._replica_phase, lambda: self.models.services, self._is_drained)
            self.hub.on_prefix_report = self.state_feed.on_prefixes
        check_open_management(settings, self.guard, keyed=self.keys.required)
        self.limits = RequestLimits(settings)
        self.memory_trim = MemoryTrim()
        self._threads = FairThreads(_LARGE_AT_ONCE)
        self._orders = orders
        self.memory = memory  #: bytes that all loaded models may take together; 0 with one model
        self.gate: ModelGate = OpenGate() if orders is None else ModelScheduler(memory)
        store = default_folder()
        self.derived_models = DerivedModels(store)
        replicas = 1 if plan is None else len(plan.replicas)
        services = (self._service(spec, replicas) for spec in models)
        self.abilities = FileAbilities()
        self.dashboard = Dashboard(lambda: self.models.services, lambda: self.admission.waiting)
        self.models = ModelDirectory(services, self.derived_models, store, on_demand=orders is not None)
        self.queries = TextQueries(self.models, self.limits)

    @classmethod
    def of_one(cls, settings: Settings, name: str) -> AppState:
        """The state of a server with one model, which has no file."""
        return cls(settings, [ModelSpec(name=name, path=None, settings=settings, at_start=True)])

    @property
    def in_flight(self) -> int:
        """See ``ServedWork``."""
        return self.hub.in_flight

    def begin_stop(self) -> int:
        """See ``ServedWork``."""
        self.gate.stop()
        return self.hub.begin_stop()

    def end_all(self) -> int:
        """See ``ServedWork``."""
        return self.hub.end_all()

    @cached_property
    def database(self) -> Database | None:
        """PostgreSQL, where clients' objects are stored there. It closes after everything that uses it."""
        address = self.settings.responses_store
        if address is None:
            return None
        return Database(address, name="responses", connections=self.settings.postgres_connections)

    @property
    def loads_on_demand(self) -> bool:
        """Whether models are loaded when requests want them."""
        return self.models.on_demand

    def serve(self, spec: ModelSpec) -> None:
        """Serve one more model, which is loaded when a request wants it; only with ``loads_on_demand``."""
        assert self._orders is not None, "it has an only model"
        self._orders.serve(spec)
        self.models.add(self._service(spec, 1))

    def retire(self, service: ModelService) -> None:
        """Serve the model no more; only with ``loads_on_demand``. It gets reports until ``models.forget``."""
        assert self._orders is not None, "it has an only model"
        self._orders.remove(service.name)
        self.models.retire(service)

    def _service(self, spec: ModelSpec, replicas: int) -> ModelService:
        # With several models, each one's Hello says how many engines there are.
        replicas = 1 if self._orders is not None else replicas
        service = ModelService(spec, self.hub, self.metrics, self._orders, replicas=replicas)
        self.gate.add(service)
        return service

    def _capacity(self) -> int:
        """Requests that run at the same time. While an engine restarts, the requests that it ran wait for the next."""
        default = self.models.default
        return self.hub.capacity or default.spec.settings.parallel * default.replicas

    @cached_property
    def stats(self) -> ServerStats:
        """The samples of this server; made when they are first wanted."""
        source = StatsSource(
            self.settings,
            self._plan,
            self.models,
            self.hub.timer.lag,
            self.metrics,
            self.open_streams,
            self.admission,
            self.hardware,
        )
        return server_stats(source)

    def reload(self) -> None:
        """Read files again that may have changed: keys, certificates. One that can't be read is logged."""
        for read in self.on_reload:
            try:
                read()
            except Exception:
                structlog.get_logger().exception("a file can't be reloaded; what was loaded before stays active")

    async def read_body(self, request: Request) -> bytes:
        """The request's body, decoded. A request for the engine gets its place in the queue. Raises RequestError: too
        large, too slow, in an unsupported encoding, or the queue is full.

        The body's memory counts until the engine has accepted the request, or the request's handler has returned.
        """
        fail = request.scope.get("extensions", {}).get(REQUEST_BODY, {}).get("fail", _ignore)
        lease = request.scope[BODY] = self.bodies.lease(fail)
        body = await read_body(request, self.settings.max_body_mb * 1_000_000, lease)
        request.state.size = len(body)
        if request.scope.get(IS_ADMITTED):
            request.scope[QUEUE_PLACE] = self.admission.enter(caller_of(request.scope).identity)
        return body

    async def read(
        self, request: Request, decoder: msgspec.json.Decoder[Payload], *, truncated: Truncated | None = None
    ) -> Payload:
        """The request's decoded body, within the limits. Raises RequestError."""
        body = await self.read_body(request)
        payload = await self.run_large(partial(decode, body, decoder, truncated=truncated), len(body))
        self.limits.check_payload(payload)
        return payload

    async def run_large(self, make: Callable[[], Made], size: int) -> Made:
        """The result of ``make``, for a request or a reply of ``size`` bytes. A large conversation takes up to seconds
        to render, as do some templates: then ``make`` runs on a thread, so that the event loop goes on sending tokens.
        """
        if size < _LARGE:
            with contextlib.suppress(RenderTakesLong), rendering_briefly():
                return make()
        return await self._threads.run(current_caller().identity, make)

    def stream_response(
        self,
        generation: Generation,
        encoder: Encoder,
        headers: Sequence[tuple[bytes, bytes]] = sse.HEADERS,
        *,
        keepalive_seconds: float | None = None,
        before_end: Callable[[], Awaitable[None]] | None = None,
    ) -> EventStream:
        """The response that sends ``generation`` as it happens. ``keepalive_seconds`` None is the server's setting.
        ``before_end`` is awaited before the last event is sent.
        """
        settings = self.settings
        return EventStream(
            generation,
            encoder,
            keepalive_seconds=settings.keepalive_seconds if keepalive_seconds is None else keepalive_seconds,
            bound=settings.slow_reader_kb * 1000,
            headers=headers,
            streams=self.open_streams,
            before_end=before_end,
        )

    async def full_response(self, reply: CollectedReply, body: Callable[[], object], more: int = 0) -> Response:
        """The response for a client that doesn't stream. ``more``: bytes of ``body`` beside the reply's, about."""
        if not reply.complete:
            raise ClientDisconnect  # There is no client to read a response.
        return await self.run_large(lambda: json_response(body()), reply.size + more)

    # Models

    async def model_for(self, request: Request, name: str | None, payload: msgspec.Struct) -> ServedModel:
        """The model of this name, loaded. The changes of a derived model and the defaults of the model's settings are
        part of it, and fill the fields that ``payload`` leaves out. Raises RequestError.
        """
        named = self.models.resolve(name)
        model = await self.loaded(request, named.service)
        model = await named.service.with_overrides(model, named.derived)
        if model.overrides is not None:
            model.overrides.fill(payload)
        return model

    async def loaded_model(self, request: Request, name: str | None) -> ServedModel:
        """The model of this name, loaded, for requests that are no conversation. Raises RequestError."""
        return await self.loaded(request, self.models.resolve(name).service)

    async def ready(self, request: Request, model: ServedModel) -> ServedModel:
        """The model of a request that has begun, once an engine serves it. Raises EngineUnavailable after
        ``engine_wait_seconds``, and ClientDisconnect when the client has gone.
        """
        return await wait_for_engine(self.models.service(model.name).engine, request.receive)

    async def loaded(self, request: Request, service: ModelService) -> ServedModel:
        """The model, once the request has its turn and an engine serves it. The request has the turn until its end, or
        that of its generation. Raises RequestError.
        """
        await take_turn(request, self.gate, service)
        model = await wait_for_engine(service.engine, request.receive)
        await service.identify()
        return model

    async def start_generation(
        self, request: Request, model: ServedModel, wanted: GenerationRequest, *, in_background: bool = False
    ) -> Generation:
        """Start a generation by ``model``; it is cancelled when the request's handler fails. From now on it has the
        request's place in the queue, its turn of the model, and its deadlines. For the cluster's ingress this waits
        until the engine has begun, unless the reply is one ``in_background``. Raises RequestError when it is refused,
        and ClientDisconnect when the client has gone.
        """
        scope = request.scope
        service = self.models.service(model.name)
        self.limits.check_generation(wanted, await self.ready(request, model))
        if is_probe(scope):
            await end_probe(request, model, wanted, self._tokenise)
        queue_place: QueuePlace = scope[QUEUE_PLACE]
        claim_tokens(request, model, len(wanted.prompts) * wanted.choices, wanted.prompts)
        generation = await Generation.start(
            service.engine,
            service.metrics,
            wanted,
            request.receive,
            caller=caller_of(scope).identity,
            place=place_of(scope),
            queue_place=queue_place,
            deadlines=scope.get(DEADLINES),
            reports_progress=self.dashboard.running.watched or is_forwarded(scope),
        )
        generation.at_end(scope.pop(MODEL_TURN).close)
        del scope[QUEUE_PLACE]
        if (handler_timeout := scope.get(HANDLER_TIMEOUT)) is not None:
            handler_timeout.reschedule(None)
        scope[STARTED] = generation
        release_body(scope)
        if is_forwarded(scope) and not in_background:
            await while_connected(generation.begins(), request.receive)
            report_begun(scope)
        return generation

    async def _tokenise(self, request: Request, model: ServedModel, text: PromptText, param: str) -> list[int]:
        """The tokens that a generation has of this prompt. Raises RequestError."""
        (found,) = await self.queries.ask(
            request, model, lambda identity: Tokenize(id=identity, text=text), param=param
        )
        assert isinstance(found, Tokenized), "so is a Tokenize answered"
        return found.tokens

    # A replica of a cluster

    def _replica_phase(self) -> ReplicaPhase:
        if self.draining:
            return "draining"
        ready = self.loads_on_demand or any(client.replicas_ready for client in self.hub.connected)
        return "ready" if ready else "starting"

    def _is_drained(self, connections: int) -> bool:
        """Whether the server stops, and requests have no more than so many connections."""
        found = self.metrics.connections
        return self.draining and not self.hub.in_flight and (found is None or found.active <= connections)


def _ignore(error: RequestError) -> None:
    """The end of the reading of a body where no connection can be told."""
