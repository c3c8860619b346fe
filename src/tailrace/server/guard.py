"""Who may come in, by which path, and how large: everything that holds for every route.

One plain ASGI layer around the router: paths are brought to their canonical form, preflights and CORS headers are
answered, keys are compared in constant time, responses are counted. Nothing of it runs per chunk of a stream but one
``if``.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.errors import BodyTooLarge, InternalError, MethodNotAllowed, NotFound, RequestError, Unauthorized
from tailrace.server.endpoint import OPENAI_ERRORS, Endpoint, ErrorShape
from tailrace.settings import Settings

#: Routes that give nothing away and answer without a key.
PUBLIC = frozenset({"/", "/health"})

#: What a preflight may ask for when it doesn't say so itself.
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile("^(/v1)+(?=/|$)")

#: A refused body is still read (and dropped) up to so many times the limit, because closing a connection under a
#: writing client resets it before the client has read the answer.
_DRAIN_FACTOR = 8


def canonical(path: str) -> str:
    """The path as the router knows it: single slashes, no trailing one, no ``/v1`` however often it was put in
    front.
    """
    path = _SLASHES.sub("/", path)
    path = _VERSIONS.sub("", path)
    return path.rstrip("/") or "/"


class Guard:
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
            (compile_path(e.path)[0], e.path.replace(":path}", "}"), e.errors) for e in endpoints if "{" in e.path
        ]
        # A path that isn't there belongs to the dialect of its neighbours: /api/... is Ollama's.
        self._rooms = {_room(endpoint.path): endpoint.errors for endpoint in reversed(endpoints)}
        self._responded = responded
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; nothing but a client's disconnect gets past this point as an exception."""
        if scope["type"] != "http":
            return
        path = canonical(scope["path"])
        # With an "app" in the scope the router raises its refusals instead of answering them in plain text.
        scope = {**scope, "path": path, "raw_path": path.encode(), "app": self}
        headers: dict[bytes, bytes] = dict(scope["headers"])
        cors = self._cors_headers(headers)
        route, errors = self._route(path)
        errors = next((shape for header, shape in self._by_header if header in headers), errors)
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                message["headers"] = [*message["headers"], *cors]
                self._responded(route, message["status"])
            await send(message)

        if scope["method"] == "OPTIONS":
            await send_guarded({"type": "http.response.start", "status": 204, "headers": self._preflight(headers)})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            self._authenticate(path, headers)
            await self._app(scope, receive, send_guarded)
        except ClientDisconnect:
            self._log.debug("client went away while it was sending", path=path)
        except RequestError as error:
            await errors.respond(error)(scope, receive, send_guarded)
        except HTTPException as error:
            await _routing_error(error, scope, errors)(scope, receive, send_guarded)
        except Exception:
            self._log.exception("a request hit a defect", path=path)
            if started:
                raise  # The stream is broken: the server closes the connection without its terminator.
            defect = InternalError("The server hit a defect of its own on this request; its log has the details.")
            await errors.respond(defect)(scope, receive, send_guarded)

    def _route(self, path: str) -> tuple[str, ErrorShape]:
        """The path as the route names it, and how errors on it are told."""
        if (errors := self._routes.get(path)) is not None:
            return path, errors
        for pattern, route, errors in self._patterns:
            if pattern.match(path):
                return route, errors
        return "other", self._rooms.get(_room(path), OPENAI_ERRORS)

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
            return [(b"access-control-allow-origin", b"*")]
        if origin is None or origin.decode("latin-1") not in self._origins:
            return [(b"vary", b"Origin")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def _preflight(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        asked = headers.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]


def _room(path: str) -> str:
    """The first segment of a canonical path."""
    return path.split("/", 2)[1]


def _routing_error(error: HTTPException, scope: Scope, errors: ErrorShape) -> Response:
    """The router's refusal in the dialect's shape."""
    where = f"{scope['method']} {scope['path']}"
    if error.status_code == 405:
        response = errors.respond(MethodNotAllowed(f"{where}: this route doesn't take that method."))
        response.headers.update(error.headers or {})
        return response
    return errors.respond(NotFound(f"{where}: there is no such route; /openapi.json lists them."))


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, however it is framed. Raises BodyTooLarge over ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    declared = request.headers.get("content-length", "")
    too_large = declared.isascii() and declared.isdigit() and int(declared) > limit
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            too_large = True
        if too_large:
            chunks.clear()
            if size > limit * _DRAIN_FACTOR:
                break
        else:
            chunks.append(chunk)
    if too_large:
        raise BodyTooLarge(f"The request's body is over the limit of {limit} bytes; send less, or raise --max-body-mb.")
    return b"".join(chunks)
