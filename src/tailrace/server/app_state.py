"""The state of the HTTP process that every route needs: settings, engine client, metrics, and shared steps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from tailrace.chat.template_limits import RenderTakesLong, rendering_briefly
from tailrace.errors import EngineDied, ModelNotFound, RequestError
from tailrace.machine.cgroup import read_throttling
from tailrace.machine.plan import MachinePlan
from tailrace.models.derived_models import DerivedModel, DerivedModels
from tailrace.models.store import default_folder
from tailrace.observe.metrics import Metrics
from tailrace.observe.telemetry import start_export
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineQuery, QueryAnswer
from tailrace.server import sse
from tailrace.server.admission import AdmissionQueue, QueuePlace
from tailrace.server.body_memory import BodyLease, BodyMemory
from tailrace.server.browsers.guard import BrowserGuard, check_open_management
from tailrace.server.caller import caller_of, current_caller, place_of
from tailrace.server.choice_group import estimated_tokens
from tailrace.server.collected_reply import CollectedReply
from tailrace.server.engine_client import EngineClient
from tailrace.server.engine_query import computed_tokens, texts_of
from tailrace.server.engine_wait import wait_for_engine
from tailrace.server.fair_threads import FairThreads
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.json_body import Truncated, decode
from tailrace.server.json_response import json_response
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.memory_trim import MemoryTrim
from tailrace.server.model_overrides import DerivedModelCache, ModelOverrides
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.open_streams import OpenStreams
from tailrace.server.request_body import read_body
from tailrace.server.request_cycle import REQUEST_BODY
from tailrace.server.request_limits import RequestLimits
from tailrace.server.request_log import STARTED, RequestLog
from tailrace.server.served_model import ServedModel
from tailrace.server.stats import ServerStats, server_stats
from tailrace.server.stats_source import StatsSource
from tailrace.server.streaming import Encoder, EventStream, cancelled_on_disconnect
from tailrace.server.system_fingerprint import file_identity, system_fingerprint
from tailrace.server.tls import certificate
from tailrace.settings import Settings

Made = TypeVar("Made")
Payload = TypeVar("Payload")

#: Bodies of requests from this size in bytes are decoded and rendered on a thread, and whole replies are built on one.
#: A smaller one has up to 2,000 messages, which take 30 ms.
_LARGE = 64_000
#: Max threads that do so: each takes a part of this process's time from the event loop.
_LARGE_AT_ONCE = 2
#: The tag that a model's name has in Ollama's lists.
LATEST = ":latest"

#: Prompt tokens that may wait, where ``queue_tokens`` is 0. A waiting token takes about 100 bytes of memory.
_QUEUE_TOKENS = 1_000_000
#: Texts of embeddings, or to be tokenised, that count as one request: they are computed together.
_TEXTS_OF_A_REQUEST = 64

#: Keys of an ASGI scope: whether the request needs a place in the queue; its place, until a generation has it; its
#: deadlines; and the timeout of its handler.
IS_ADMITTED = "tailrace.is_admitted"
QUEUE_PLACE = "tailrace.queue_place"
DEADLINES = "tailrace.deadlines"
HANDLER_TIMEOUT = "tailrace.handler_timeout"
#: The key of an ASGI scope for the memory of the request's body.
BODY = "tailrace.body"


class AppState:
    """See the module. There is one in the process."""

    def __init__(
        self,
        settings: Settings,
        model_name: str,
        replicas: int = 1,
        *,
        model_path: Path | None = None,
        plan: MachinePlan | None = None,
    ) -> None:
        """``model_path`` is the served model's file; None with the fake backend. ``plan``: the machine's.

        Raises ConfigurationError.
        """
        self.settings = settings
        self.model_name = model_name
        self.model_path = model_path
        self.replicas = replicas
        self.created = int(time.time())
        self.hub = EngineHub(silence_seconds=settings.keepalive_seconds)
        self.engine = EngineClient(
            model_name, self.hub.timer, wait_seconds=settings.engine_wait_seconds, hang_seconds=settings.hang_seconds
        )
        self.hub.add(self.engine)
        self.metrics = Metrics(model_name, self.engine, replicas)
        self.metrics.read_throttling = read_throttling
        export = start_export(settings.otlp_endpoint, settings.host, settings.port)
        self.request_log = RequestLog(
            model_name,
            lines=settings.access_log,
            prompts=settings.log_prompts,
            on_request=None if export is None else export.request_ended,
        )
        self.open_streams = OpenStreams()
        self._plan = plan
        self.bodies = BodyMemory(settings.body_memory_mb * 1_000_000, settings.body_seconds)
        self.draining = False  #: whether the server stops: running replies finish, and new requests are refused
        self.on_reload: list[Callable[[], None]] = []  #: called at a SIGHUP, each reads its files again
        running = settings.parallel * replicas
        self.admission = AdmissionQueue(
            max_waiting=settings.queue_requests,
            max_waiting_tokens=settings.queue_tokens or _QUEUE_TOKENS,
            # While an engine restarts, the requests that it ran wait for the next one.
            capacity=lambda: self.engine.capacity or running,
        )
        self.metrics.queue = self.admission
        self.on_shutdown: list[Callable[[], None]] = []  #: called when the process ends
        self.keys = KeyRing(settings)
        self.on_reload.append(self.keys.reload)
        self.on_shutdown.append(self.keys.close)
        self.certificate = certificate(settings)
        if self.certificate is not None:
            self.on_reload.append(self.certificate.reload)
        if export is not None:
            self.on_shutdown.append(export.stop)
        self.guard = BrowserGuard(settings)
        check_open_management(settings, self.guard, keyed=self.keys.required)
        store = default_folder()
        self.derived_models = DerivedModels(store)
        #: The served model's name in the store, if it is there: derived models refer to it by that name.
        self.store_name = (
            model_path.parent.name if model_path is not None and model_path.parent.parent == store else None
        )
        self._derived = DerivedModelCache()
        self.limits = RequestLimits(settings)
        self.memory_trim = MemoryTrim()
        self._threads = FairThreads(_LARGE_AT_ONCE)
        self._file = file_identity(model_path)
        self._fingerprinted: tuple[ServedModel, str] | None = None

    @cached_property
    def stats(self) -> ServerStats:
        """The samples of this server; made when they are first wanted."""
        source = StatsSource(self.settings, self._plan, self.engine, self.metrics, self.open_streams, self.admission)
        return server_stats(source)

    def reload(self) -> None:
        """Read files again that may have changed: keys, certificates. One that can't be read is logged."""
        for read in self.on_reload:
            try:
                read()
            except Exception:
                structlog.get_logger().exception("a file can't be reloaded; what was loaded before stays active")

    def fingerprint(self, model: ServedModel) -> str:
        """``system_fingerprint`` of replies by this model."""
        if self._fingerprinted is None or self._fingerprinted[0] is not model:
            self._fingerprinted = (model, system_fingerprint(self.settings, model.info, self._file))
        return self._fingerprinted[1]

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

    async def start_generation(self, request: Request, wanted: GenerationRequest) -> Generation:
        """Start a generation; it is cancelled when the request's handler fails. From now on it has the request's place
        in the queue, and its deadlines. Raises RequestError when it is refused, and ClientDisconnect when the client
        has gone.
        """
        scope = request.scope
        self.limits.check_generation(wanted, await self.ready(request))
        queue_place: QueuePlace = scope[QUEUE_PLACE]
        self._claim(request, len(wanted.prompts) * wanted.choices, wanted.prompts)
        generation = await Generation.start(
            self.engine,
            self.metrics,
            wanted,
            request.receive,
            caller=caller_of(scope).identity,
            place=place_of(scope),
            queue_place=queue_place,
            deadlines=scope.get(DEADLINES),
        )
        del scope[QUEUE_PLACE]
        if (handler_timeout := scope.get(HANDLER_TIMEOUT)) is not None:
            handler_timeout.reschedule(None)
        scope[STARTED] = generation
        release_body(scope)
        return generation

    def claim_texts(self, request: Request, texts: Sequence[PromptText | str | list[int]], param: str) -> None:
        """Count texts of the field ``param``, which the engine reads, in the request's place in the queue. Raises
        RequestError: the queue is full, or a text surely doesn't fit.
        """
        if (model := self.engine.model) is not None:
            for text in texts:
                self.limits.check_prompt(text, param, model)
        self._claim(request, 1 + len(texts) // _TEXTS_OF_A_REQUEST, texts)

    def _claim(self, request: Request, requests: int, prompts: Sequence[PromptText | str | list[int]]) -> None:
        model = self.engine.model
        context = model.info.context if model is not None else 0
        request.scope[QUEUE_PLACE].claim(requests, sum(estimated_tokens(prompt, context) for prompt in prompts))

    def stream_response(
        self,
        generation: Generation,
        encoder: Encoder,
        headers: Sequence[tuple[bytes, bytes]] = sse.HEADERS,
        *,
        keepalive_seconds: float | None = None,
    ) -> EventStream:
        """The response that sends ``generation`` as it happens. ``keepalive_seconds`` None is the server's setting."""
        settings = self.settings
        return EventStream(
            generation,
            encoder,
            keepalive_seconds=settings.keepalive_seconds if keepalive_seconds is None else keepalive_seconds,
            bound=settings.slow_reader_kb * 1000,
            headers=headers,
            streams=self.open_streams,
        )

    async def full_response(self, reply: CollectedReply, body: Callable[[], object], more: int = 0) -> Response:
        """The response for a client that doesn't stream. ``more``: bytes of ``body`` beside the reply's, about."""
        if not reply.complete:
            raise ClientDisconnect  # There is no client to read a response.
        return await self.run_large(lambda: json_response(body()), reply.size + more)

    async def query_engine(
        self, request: Request, make: Callable[[int], EngineQuery], answers: int = 1, *, param: str
    ) -> list[QueryAnswer]:
        """The engine's answers to what ``make`` makes of an id. Raises RequestError, naming ``param`` where the engine
        refuses, and ClientDisconnect when the client has gone.

        A query whose engine dies is asked once more, of the next engine.
        """
        self.claim_texts(request, texts_of(make(0)), param)
        try:
            return await self._query(request, make, answers, param)
        except EngineDied:
            await self.ready(request)
            return await self._query(request, make, answers, param)

    async def _query(
        self, request: Request, make: Callable[[int], EngineQuery], answers: int, param: str
    ) -> list[QueryAnswer]:
        query = self.engine.query(make, answers, param=param, caller=caller_of(request.scope).identity)
        try:
            async with cancelled_on_disconnect(query, request.receive):
                found = await query.answers()
        finally:
            query.withdraw()
        if (place := place_of(request.scope)) is not None:
            place.allowance.charge(sum(computed_tokens(answer) for answer in found or ()))
        if found is None:
            raise ClientDisconnect
        return found

    async def ready(self, request: Request) -> ServedModel:
        """The model, once an engine serves it. Raises EngineUnavailable after ``engine_wait_seconds``, and
        ClientDisconnect when the client has gone.
        """
        return await wait_for_engine(self.engine, request.receive)

    def serves(self, name: str) -> bool:
        """Whether ``name`` is the served model's or one of its aliases. Ollama's tag ``latest`` is the same as none:
        its lists show the tag, and its clients send it to every dialect. A model that the caller's key may not use
        isn't served to it.
        """
        return (self._answers(name) or self.derived_model(name) is not None) and self.may_use(name)

    def may_use(self, name: str | None) -> bool:
        """Whether the caller's key may use the model of this name; None is the served one. An alias may be used by its
        own name and by that of the served model.
        """
        caller = current_caller()
        if not caller.models:
            return True
        names = {name or self.model_name}
        if name is None or (self._answers(name) and self.derived_model(name) is None):
            names.add(self.model_name)
        return caller.may_use(names | {known.removesuffix(LATEST) for known in names})

    def _answers(self, name: str) -> bool:
        return any(
            known == self.model_name or any(fnmatchcase(known, alias) for alias in self.settings.aliases)
            for known in {name, name.removesuffix(LATEST), f"{name}{LATEST}"}
        )

    def derived_model(self, name: str | None) -> DerivedModel | None:
        """The derived model that clients have made of the served one under this name."""
        found = self.derived_models.get(name.removesuffix(LATEST)) if name else None
        return found if found is not None and self.is_base(found.base) else None

    def is_base(self, base: str) -> bool:
        """Whether a derived model's base is the served model."""
        return base in (self.store_name, self.model_name) or self._answers(base)

    @property
    def derived_names(self) -> list[str]:
        """The names that clients have made of the served model, as far as the caller's key may use them."""
        return [name for name, entry in self.derived_models.items() if self.is_base(entry.base) and self.may_use(name)]

    @property
    def listed_names(self) -> list[str]:
        """The names of all models that the caller's key may use, the served one first."""
        return [*([self.model_name] if self.may_use(None) else ()), *self.derived_names]

    def listed_name(self, name: str) -> str:
        """The name that a list has for the model of this name. Raises ModelNotFound."""
        self.check_model(name)
        return name.removesuffix(LATEST) if self.derived_model(name) is not None else self.model_name

    async def served_model(self, request: Request) -> ServedModel:
        """The served model, once an engine serves it: for routes without a model's name. Raises RequestError."""
        self.check_model(None)
        return await self.ready(request)

    async def model_for(self, request: Request, name: str | None, payload: msgspec.Struct) -> ServedModel:
        """The model of this name, once an engine serves it. A derived model's overrides are part of it, and fill the
        fields that ``payload`` leaves out. Raises RequestError.
        """
        self.check_model(name)
        model = await self.ready(request)
        entry = self.derived_model(name)
        if entry is None:
            return model
        derived = self._derived.get(model, entry)
        if derived is None:  # Its template is tried and compiled.
            derived = await asyncio.to_thread(self._derived.make, model, entry)
        ModelOverrides(entry).fill(payload)
        return derived

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFound when ``name`` isn't the served model's or one of its aliases, or the caller's key may not
        use it; None is the served model.
        """
        if self.may_use(None) if name is None else self.serves(name):
            return
        name = name or self.model_name
        shown = name if len(name) <= 200 else f"{name[:200]}…"
        why = "or this key may not use it" if current_caller().models else f"this server serves '{self.model_name}'"
        raise ModelNotFound(f"The model '{shown}' does not exist here; {why}.", param="model")


def release_body(scope: Scope) -> None:
    """The body of the request with this scope isn't needed any more."""
    lease: BodyLease | None = scope.get(BODY)
    if lease is not None:
        lease.release()


def _ignore(error: RequestError) -> None:
    """The end of the reading of a body where no connection can be told."""
