"""What holds for every route: canonical paths, keys or the rules for web pages, and errors in the dialect of the path.

One plain ASGI layer around the router: paths are brought to their canonical form, preflights are answered, the
request's key is found and its limits are applied, responses are counted, and each request's summary is logged. Nothing
of it runs per chunk of a stream but one ``if``. ``keys`` knows keys and limits, ``browsers`` knows hosts and origins.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.errors import InternalError, InvalidRequest, MethodNotAllowed, NotFound, RequestError
from tailrace.observe.metrics import Metrics
from tailrace.observe.request_summary import RequestSummary
from tailrace.server.browsers.guard import BrowserGuard
from tailrace.server.caller import Caller, client_address, set_caller
from tailrace.server.endpoint import OPENAI_ERRORS, Endpoint, ErrorFormat
from tailrace.server.forwarding import Forwarding
from tailrace.server.keys.allowance import Place
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.keys.limit_headers import limit_headers
from tailrace.server.page.routes import ASSETS
from tailrace.server.refusal import refusal_of
from tailrace.server.request_id import HEADER as REQUEST_ID
from tailrace.server.request_id import name_request
from tailrace.server.request_log import STARTED, RequestLog
from tailrace.server.waiting_stream import waiting_stream

#: Routes that give nothing away and answer without a key, beside the page's files. Every other route needs one,
#: unknown ones included.
PUBLIC = frozenset({"/", "/health", "/health/live", "/health/ready"})
#: Further routes that are served while the server stops, and on connections beyond the limit.
ALWAYS_SERVED = frozenset({"/metrics", "/stats", "/stats/live", "/cluster/state"})
#: Routes that need no key with the cluster's secret: no client's request is behind them.
_FOR_INGRESS = frozenset({"/cluster/state"})

_CONVERTOR = re.compile(":[a-z]+}")
_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile("^(/v1)+(?=/|$)")


def canonical(path: str) -> str:
    """The path as the router knows it: single slashes, no trailing one, no ``/v1`` however often it was put in
    front.
    """
    path = _SLASHES.sub("/", path)
    path = _VERSIONS.sub("", path)
    return path.rstrip("/") or "/"


@dataclass(frozen=True)
class _Route:
    """The facts of a path that the layer needs."""

    path: str
    errors: ErrorFormat
    limited: frozenset[str] = frozenset()  #: the methods to which a key's limits apply


class RequestMiddleware:
    """The layer. ``metrics`` count every response and error, ``log`` gets each request's summary at its end."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        guard: BrowserGuard,
        forwarding: Forwarding,
        endpoints: Sequence[Endpoint],
        metrics: Metrics,
        log: RequestLog,
    ) -> None:
        self._app = app
        self._keys = keys
        self._guard = guard
        self._forwarding = forwarding
        self._by_header = [(e.header.encode(), e.errors) for e in endpoints if e.header is not None]
        endpoints = [endpoint for endpoint in endpoints if endpoint.header is None]
        limited: dict[str, frozenset[str]] = {}
        for endpoint in endpoints:
            if endpoint.computes:
                limited[endpoint.path] = limited.get(endpoint.path, frozenset()) | {endpoint.method}
        routes = {
            e.path: _Route(_CONVERTOR.sub("}", e.path), e.errors, limited.get(e.path, frozenset())) for e in endpoints
        }
        self._routes = {path: route for path, route in routes.items() if "{" not in path}
        self._patterns = [(compile_path(path)[0], route) for path, route in routes.items() if "{" in path]
        # A path without a route gets the errors of its neighbours' dialect: /api/... is Ollama's.
        self._errors_by_prefix = {_first_segment(endpoint.path): endpoint.errors for endpoint in reversed(endpoints)}
        self._metrics = metrics
        self._request_log = log
        for route in routes.values():
            metrics.add_route(route.path)
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; nothing but a client's disconnect gets past this point as an exception."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        began_at = time.monotonic()
        client = self._forwarding.take(scope, headers)
        address = client_address(scope) if client is None else client
        set_caller(scope, Caller(address))
        identity = name_request(scope, scope["headers"])
        structlog.contextvars.bind_contextvars(
            request_id=identity
        )  # The request has a task, and so a context, of its own.
        path = canonical(scope["path"])
        # With an "app" in the scope the router raises its refusals instead of answering them in plain text.
        scope = {**scope, "path": path, "raw_path": path.encode(), "app": self}
        route = self._route(path)
        errors = next((shape for header, shape in self._by_header if header in headers), route.errors)
        added = [(REQUEST_ID, identity.encode()), *self._guard.response_headers(headers)]
        summary = RequestSummary(
            request_id=identity,
            method=scope["method"],
            route=route.path,
            path=path,
            client=address,
            began_at=began_at,
            traceparent=_header(headers, b"traceparent"),
            tracestate=_header(headers, b"tracestate"),
        )
        started = False
        place: Place | None = None

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                message["headers"] = [*message["headers"], *added]
                if place is not None:
                    message["headers"] += limit_headers(place.allowance, errors.limits)
                summary.status = message["status"]
                self._metrics.response_started(route.path, message["status"])
            await send(message)

        async def refuse(error: RequestError, more: Mapping[str, str] | None = None) -> None:
            summary.error = error.code or error.type
            if not error.counted:
                self._metrics.request_failed(error)
            if (waiting := waiting_stream(scope)) is not None and await waiting.hand_over():
                await waiting.fail(error)
                return
            response = errors.respond(error, identity)
            response.headers.update({**error.headers, **(more or {})})
            await response(scope, receive, send_guarded)

        try:
            if scope["method"] == "OPTIONS":
                response = Response(status_code=204)
                response.raw_headers = self._guard.preflight_headers(headers)
                await response(scope, receive, send_guarded)
                return
            public = path in PUBLIC or path.startswith(ASSETS) or (client is not None and path in _FOR_INGRESS)
            if (refusal := refusal_of(scope)) is not None and not (public or path in ALWAYS_SERVED):
                raise refusal
            if len(headers) < len(scope["headers"]):
                check_one_host(scope["headers"])
            key = None if public and self._keys.required else self._keys.authenticate(headers)
            if key is not None:
                summary.key = key.name
                if key.owner and scope["method"] in route.limited:
                    place = Place(key.allowance)
                set_caller(scope, Caller(address, key.name, key.owner, key.record.models), place)
                if place is not None:
                    place.enter()
            elif not self._keys.required and client is None:  # The ingress has looked at its clients' pages.
                self._guard.check(scope["method"], headers)
            await self._app(scope, receive, send_guarded)
        except ClientDisconnect:
            self._log.debug("client went away while it was sending", path=path)
        except RequestError as error:
            await refuse(error)
        except HTTPException as error:
            await refuse(_routing_error(error, scope), error.headers)
        except Exception:
            self._log.exception("a request hit a defect", path=path)
            if started:
                raise  # The stream is broken: the server closes the connection without its terminator.
            await refuse(InternalError("The server hit a defect of its own on this request; its log has the details."))
        finally:
            if place is not None:
                place.release()
            self._request_log.ended(summary, scope.get(STARTED))

    def _route(self, path: str) -> _Route:
        """The route of a canonical path."""
        if (route := self._routes.get(path)) is not None:
            return route
        for pattern, route in self._patterns:
            if pattern.match(path):
                return route
        return _Route("other", self._errors_by_prefix.get(_first_segment(path), OPENAI_ERRORS))


def check_one_host(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise InvalidRequest for several Host headers: proxies disagree on which of them counts (RFC 9112, 3.2)."""
    if sum(name == b"host" for name, _ in headers) > 1:
        raise InvalidRequest("The request has several Host headers.", code="invalid_http")


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _first_segment(path: str) -> str:
    """The first segment of a canonical path; empty for ``*``, which has none."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _routing_error(error: HTTPException, scope: Scope) -> RequestError:
    """The router's refusal as a RequestError."""
    where = f"{scope['method']} {scope['path']}"
    if error.status_code == 405:
        return MethodNotAllowed(f"{where}: this route doesn't take that method.")
    return NotFound(f"{where}: there is no such route; /openapi.json lists them.")
