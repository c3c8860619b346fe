"""What holds for every route: canonical paths, keys, CORS, and errors in the dialect of the path.

One plain ASGI layer around the router: paths are brought to their canonical form, preflights and CORS headers are
answered, keys are compared in constant time, responses are counted. Nothing of it runs per chunk of a stream but one
``if``.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.errors import InternalError, MethodNotAllowed, NotFound, RequestError, Unauthorized
from tailrace.server.caller import Caller, client_address, set_caller
from tailrace.server.endpoint import OPENAI_ERRORS, Endpoint, ErrorFormat
from tailrace.server.request_id import HEADER as REQUEST_ID
from tailrace.server.request_id import name_request
from tailrace.settings import Settings

#: Routes that give nothing away and answer without a key.
PUBLIC = frozenset({"/", "/health"})

#: The methods that a preflight's answer allows.
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
#: The response headers that a page's script may read, for reports.
_EXPOSED = (b"access-control-expose-headers", b"x-request-id, request-id, retry-after")
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


class RequestMiddleware:
    """The layer. ``responded`` is called with route and status of every response."""

    def __init__(
        self, app: ASGIApp, settings: Settings, endpoints: Sequence[Endpoint], responded: Callable[[str, int], None]
    ):
        self._app = app
        self._key = settings.api_key.encode() if settings.api_key else None
        self._origins = frozenset(settings.cors_origins)
        self._by_header = [(e.header.encode(), e.errors) for e in endpoints if e.header is not None]
        endpoints = [endpoint for endpoint in endpoints if endpoint.header is None]
        self._routes = {endpoint.path: endpoint.errors for endpoint in endpoints if "{" not in endpoint.path}
        self._patterns = [
            (compile_path(e.path)[0], _CONVERTOR.sub("}", e.path), e.errors) for e in endpoints if "{" in e.path
        ]
        # A path without a route gets the errors of its neighbours' dialect: /api/... is Ollama's.
        self._errors_by_prefix = {_first_segment(endpoint.path): endpoint.errors for endpoint in reversed(endpoints)}
        self._responded = responded
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; nothing but a client's disconnect gets past this point as an exception."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        set_caller(scope, Caller(client_address(scope)))
        identity = name_request(scope, scope["headers"])
        structlog.contextvars.bind_contextvars(
            request_id=identity
        )  # The request has a task, and so a context, of its own.
        path = canonical(scope["path"])
        # With an "app" in the scope the router raises its refusals instead of answering them in plain text.
        scope = {**scope, "path": path, "raw_path": path.encode(), "app": self}
        route, errors = self._route(path)
        errors = next((shape for header, shape in self._by_header if header in headers), errors)
        added = [(REQUEST_ID, identity.encode()), *self._cors_headers(headers)]
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                message["headers"] = [*message["headers"], *added]
                self._responded(route, message["status"])
            await send(message)

        async def refuse(error: RequestError, more: Mapping[str, str] | None = None) -> None:
            response = errors.respond(error, identity)
            response.headers.update({**error.headers, **(more or {})})
            await response(scope, receive, send_guarded)

        try:
            if scope["method"] == "OPTIONS":
                await _preflight(headers)(scope, receive, send_guarded)
                return
            self._authenticate(path, headers)
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

    def _route(self, path: str) -> tuple[str, ErrorFormat]:
        """The route's own path, and the format of its errors."""
        if (errors := self._routes.get(path)) is not None:
            return path, errors
        for pattern, route, errors in self._patterns:
            if pattern.match(path):
                return route, errors
        return "other", self._errors_by_prefix.get(_first_segment(path), OPENAI_ERRORS)

    def _authenticate(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._key is None or path in PUBLIC:
            return
        given = [headers.get(b"x-api-key", b"")]
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given.append(token.strip())
        # Either will do: some clients fill in both, one of them with a placeholder.
        if not any(hmac.compare_digest(key, self._key) for key in given):
            raise Unauthorized("Missing or wrong API key. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")

    def _cors_headers(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        if "*" in self._origins:
            return [(b"access-control-allow-origin", b"*"), _EXPOSED]
        if origin is None or origin.decode("latin-1") not in self._origins:
            return [(b"vary", b"Origin")]
        return [(b"access-control-allow-origin", origin), _EXPOSED, (b"vary", b"Origin")]


def _preflight(headers: Mapping[bytes, bytes]) -> Response:
    """The answer to a browser that asks what it may send."""
    asked = headers.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
    response = Response(status_code=204)
    response.raw_headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", asked),
        (b"access-control-max-age", b"600"),
    ]
    return response


def _first_segment(path: str) -> str:
    """The first segment of a canonical path; empty for ``*``, which has none."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _routing_error(error: HTTPException, scope: Scope) -> RequestError:
    """The router's refusal as a RequestError."""
    where = f"{scope['method']} {scope['path']}"
    if error.status_code == 405:
        return MethodNotAllowed(f"{where}: this route doesn't take that method.")
    return NotFound(f"{where}: there is no such route; /openapi.json lists them.")
