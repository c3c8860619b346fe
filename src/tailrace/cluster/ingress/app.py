"""The ingress's ASGI app: what it answers itself, and what it forwards.

For every request it applies the rules about keys and web pages, as ``server.middleware`` does, and logs one line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tailrace.cluster.ingress.body_fields import BodyFields, fields_of
from tailrace.cluster.ingress.dialects import Dialect, StreamFacts, dialect_of
from tailrace.cluster.ingress.fetch import FetchFailedError, fetch
from tailrace.cluster.ingress.forwarded_head import forwarded_head
from tailrace.cluster.ingress.forwarded_request import COMPUTING, ForwardedRequest
from tailrace.cluster.ingress.model_lists import LISTS, ModelLists
from tailrace.cluster.ingress.readiness import Readiness
from tailrace.cluster.ingress.relay import Relay
from tailrace.cluster.ingress.replicas import Replica, Replicas
from tailrace.cluster.ingress.work import IngressWork
from tailrace.errors import InternalError, ModelNotFound, NoReplica, NotFound, NotSupported, RequestError
from tailrace.observe.request_summary import CLIENT_GONE
from tailrace.server.browsers.guard import BrowserGuard
from tailrace.server.caller import Caller, client_address
from tailrace.server.fair_threads import FairThreads
from tailrace.server.json_response import json_response
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.middleware import ALWAYS_SERVED, PUBLIC, canonical, check_one_host
from tailrace.server.page.routes import ASSETS
from tailrace.server.refusal import refusal_of
from tailrace.server.request_body import read_body
from tailrace.server.request_cycle import RAW_RESPONSE, REQUEST_BODY, RawResponse
from tailrace.server.request_id import HEADER as REQUEST_ID
from tailrace.server.request_id import name_request

#: The header in which Anthropic's clients look for the request's id.
_ANTHROPIC_ID = b"request-id"
#: Seconds for a replica's answer to a question of the ingress's own, and its max bytes.
_FETCH_SECONDS = 5.0
_MAX_LIST = 4_000_000
#: Routes that machines call every few seconds: lines for debugging.
_QUIET = ("/health", "/metrics", "/stats")
#: Bytes of a body from which it is read on a thread: one of 32 MB takes up to a tenth of a second.
_LARGE = 1_000_000
_LARGE_AT_ONCE = 2
_MAX_SHOWN = 200
_MAX_LISTED = 8


class IngressApp:
    """See the module."""

    def __init__(
        self, work: IngressWork, replicas: Replicas, readiness: Readiness, keys: KeyRing, guard: BrowserGuard
    ) -> None:
        self.metrics: Callable[[Scope], Awaitable[Response]] | None = None  #: the answer at ``/metrics``
        self._work = work
        self._replicas = replicas
        self._readiness = readiness
        self._keys = keys
        self._guard = guard
        self._lists = ModelLists()
        self._threads = FairThreads(_LARGE_AT_ONCE)
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; nothing but a client's disconnect gets past this point as an exception."""
        if scope["type"] == "http":
            await _Handling(self, scope, receive, send).run()


class _Handling:
    """One request."""

    def __init__(self, app: IngressApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._identity = name_request(scope, scope["headers"])
        self._path = canonical(scope["path"])
        self._dialect: Dialect = dialect_of(self._path, self._headers)
        self._caller = Caller(client_address(scope))
        self._added = [(REQUEST_ID, self._identity.encode()), *app._guard.response_headers(self._headers)]
        self._relay: Relay | None = None
        self._model: str | None = None
        self._status: int | None = None
        self._error: str | None = None

    async def run(self) -> None:
        began_at = time.monotonic()
        try:
            await self._serve()
        except ClientDisconnect:
            pass
        except RequestError as error:
            await self._refuse(error)
        except Exception:
            self._app._log.exception("a request hit a defect", path=self._path, request_id=self._identity)
            if self._status is not None or (self._relay is not None and self._relay.status is not None):
                raise  # The response has begun: the server closes the connection.
            await self._refuse(InternalError("The ingress hit a defect of its own on this request; see its log."))
        finally:
            self._count()
            self._log_line(began_at)

    async def _serve(self) -> None:
        app, scope, path = self._app, self._scope, self._path
        if scope["method"] == "OPTIONS":
            preflight = Response(status_code=204)
            preflight.raw_headers = app._guard.preflight_headers(self._headers)
            await self._respond(preflight)
            return
        public = path in PUBLIC or path.startswith(ASSETS)
        if (refusal := refusal_of(scope)) is not None and not (public or path in ALWAYS_SERVED):
            raise refusal
        if len(self._headers) < len(scope["headers"]):
            check_one_host(scope["headers"])
        key = None if public and app._keys.required else app._keys.authenticate(self._headers)
        if key is not None:
            self._caller = Caller(self._caller.address, key.name, key.owner, key.record.models)
        elif not app._keys.required:
            app._guard.check(scope["method"], self._headers)
        response = await self._own_response()
        if response is not None:
            await self._respond(response)
        else:
            await self._forward()

    async def _own_response(self) -> Response | None:
        """The answer to what the ingress answers itself; None for what a replica answers. Raises RequestError."""
        app, path, method = self._app, self._path, self._scope["method"]
        if path == "/cluster" or path.startswith("/cluster/"):
            raise NotFound(f"{method} {path}: there is no such route; /openapi.json lists them.")
        if path.startswith("/api/blobs/"):
            raise NotSupported("Files aren't uploaded to a cluster: its models are those of its configuration.")
        if method not in ("GET", "HEAD"):
            return None
        if path in ("/health", "/health/ready"):
            status = app._readiness.status(draining=app._work.draining)
            if status.status == "ok":
                return json_response(status)
            return json_response(status, 503, headers={"retry-after": str(NoReplica.retry_after)})
        if path == "/health/live":
            return json_response({"status": "ok"})
        if path == "/metrics" and app.metrics is not None:
            return await app.metrics(self._scope)
        if path in LISTS and method == "GET" and len(app._replicas.models) > 1:
            return await self._list()
        return None

    async def _list(self) -> Response:
        """The list of all models: one replica of each is asked."""
        replicas = self._app._replicas
        names = [name for name in replicas.models if self._caller.may_use((name,))]
        asked = [(name, ready[0]) for name in names if (ready := replicas.ready(name))]
        head = self._head(None, keep_alive=True, version="1.1")

        async def ask(replica: Replica) -> bytes | None:
            try:
                return await fetch(replica, "GET", head, seconds=_FETCH_SECONDS, limit=_MAX_LIST)
            except FetchFailedError as error:
                self._app._log.warning("a replica's models can't be listed", replica=replica.view.id, reason=str(error))
                return None

        bodies = await asyncio.gather(*(ask(replica) for _, replica in asked))
        replies = [(name, body) for (name, _), body in zip(asked, bodies, strict=True) if body is not None]
        return Response(self._app._lists.merged(self._path, replies, names), media_type="application/json")

    async def _forward(self) -> None:
        app, scope = self._app, self._scope
        settings = app._work.settings
        extensions = scope["extensions"]
        lease = app._work.bodies.lease(extensions[REQUEST_BODY]["fail"])
        size = 0
        try:
            body = await read_body(Request(scope, self._receive), settings.max_body_mb * 1_000_000, lease)
            size = len(body)
            raw: RawResponse = extensions[RAW_RESPONSE]["response"]
            request = self._request(body, await self._fields(body), raw)
            self._model = request.model
            relay = self._relay = Relay(app._work.start, app._replicas, request, body, raw)
            del body  # The relay lets it go when the request isn't sent again.
            relay.on_begun = lease.release
            app._work.relays.add(relay)
            try:
                await relay.run()
            finally:
                app._work.relays.discard(relay)
                self._status, self._error = relay.status, relay.error
        finally:
            lease.release()
            app._work.memory_trim.request_ended(size)

    async def _fields(self, body: bytes) -> BodyFields:
        """What the body says about its way; a large one is read on a thread, beside other requests' bytes."""
        if self._scope["method"] != "POST":
            return BodyFields()
        if len(body) < _LARGE:
            return fields_of(body)
        return await self._app._threads.run(self._caller.identity, partial(fields_of, body))

    def _request(self, body: bytes, fields: BodyFields, raw: RawResponse) -> ForwardedRequest:
        """The request as replicas get it. Raises ModelNotFound."""
        app, scope, path = self._app, self._scope, self._path
        settings, version = app._work.settings, scope["http_version"]
        posts = scope["method"] == "POST"
        name = fields.model if posts else path.removeprefix("/models/") if path.startswith("/models/") else None
        has_body = bool(body) or posts or b"content-length" in self._headers
        model = self._model_of(name)
        shown = name or model or ""
        facts = StreamFacts(path, shown, self._identity, settings.keepalive_style == "comment")
        by_default = path in ("/api/chat", "/api/generate")  # Ollama's
        streams = path in COMPUTING and (fields.stream is True or (by_default and fields.stream is None))
        own_headers = list(self._added)
        if self._dialect.errors.limits == "anthropic":
            own_headers.append((_ANTHROPIC_ID, self._identity.encode()))
        return ForwardedRequest(
            method=scope["method"],
            path=path,
            dialect=self._dialect,
            model=model,
            head=self._head(len(body) if has_body else None, keep_alive=raw.keep_alive, version=version),
            facts=facts,
            own_headers=own_headers,
            streams=streams,
            wakes=model is not None and app._replicas.wakes(model),
            is_chunked=version != "1.0",
            keepalive_seconds=settings.keepalive_seconds,
        )

    def _model_of(self, name: str | None) -> str | None:
        """The model that the request is about, or the default; None: there is none yet, or any replica may answer.

        Where there is one model, its replicas judge all names, as on one machine. Raises ModelNotFound.
        """
        replicas = self._app._replicas
        models = replicas.models
        default = models[0] if models else None
        if name is None or len(models) <= 1:
            if len(models) > 1:
                default = next((model for model in models if self._caller.may_use((model,))), default)
            return default
        found = replicas.find(name)
        if found is None:
            usable = [model for model in models if self._caller.may_use((model,))]
            names = ", ".join(f"'{model}'" for model in usable[:_MAX_LISTED])
            more = f" and {len(usable) - _MAX_LISTED} more" if len(usable) > _MAX_LISTED else ""
            shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
            raise ModelNotFound(
                f"The model '{shown}' does not exist here; this cluster serves {names}{more}.", param="model"
            )
        return found

    def _head(self, length: int | None, *, keep_alive: bool, version: str) -> bytes:
        scope, query = self._scope, self._scope["query_string"]
        return forwarded_head(
            scope["method"],
            scope["raw_path"] + (b"?" + query if query else b""),
            version,
            scope["headers"],
            client=self._caller.address,
            scheme=scope["scheme"],
            request_id=self._identity,
            secret=self._app._work.settings.cluster_secret or "",
            length=length,
            keep_alive=keep_alive,
        )

    async def _refuse(self, error: RequestError) -> None:
        self._error = error.code or error.type
        response = self._dialect.errors.respond(error, self._identity)
        response.headers.update(error.headers)
        await self._respond(response)

    async def _respond(self, response: Response) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                message["headers"] = [*message["headers"], *self._added]
            await self._send(message)

        await response(self._scope, self._receive, send)

    def _count(self) -> None:
        counts, relay = self._app._replicas.counts, self._relay
        if self._error is not None:
            counts.answered_with(self._error)
        if relay is None:
            return
        model = self._model or ""
        counts.ended(
            model,
            relay.replica,
            status=self._status,
            error=self._error,
            client_gone=relay.client_gone,
            attempts=relay.attempts,
        )
        if relay.woke:
            counts.woke(model)
        if relay.placement is not None and relay.placement.prompt_tokens:
            counts.placed(model, relay.placement.prompt_tokens, relay.placement.held_tokens)

    def _log_line(self, began_at: float) -> None:
        if not self._app._work.settings.access_log:
            return
        relay = self._relay
        fields = {
            "method": self._scope["method"],
            "path": self._path[:_MAX_SHOWN],
            "status": CLIENT_GONE if self._status is None else self._status,
            "error": self._error,
            "client": self._caller.address,
            "key": self._caller.key_name,
            "seconds": round(time.monotonic() - began_at, 4),
            "model": self._model,
            "replica": relay.replica if relay is not None and relay.replica else None,
            "attempts": relay.attempts if relay is not None and relay.attempts > 1 else None,
            "request_id": self._identity,
        }
        log = self._app._log.debug if self._path.startswith(_QUIET) else self._app._log.info
        log("request", **{name: value for name, value in fields.items() if value is not None})
