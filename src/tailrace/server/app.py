"""The ASGI app: every dialect's routes behind one guard. The only module that knows the dialects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.server import health, stats_routes, status_routes
from tailrace.server.app_state import AppState
from tailrace.server.cluster import routes as cluster_routes
from tailrace.server.dashboard import routes as dashboard_routes
from tailrace.server.dashboard.running_requests import RunningRequest
from tailrace.server.deadlines import Deadlines, deadlines_of
from tailrace.server.dialects.anthropic import routes as anthropic
from tailrace.server.dialects.llama_server import routes as llama_server
from tailrace.server.dialects.ollama import routes as ollama
from tailrace.server.dialects.openai import routes as openai
from tailrace.server.dialects.rerank import routes as rerank
from tailrace.server.dialects.responses import routes as responses
from tailrace.server.endpoint import Endpoint, Handler
from tailrace.server.json_response import json_response
from tailrace.server.middleware import RequestMiddleware
from tailrace.server.openapi import document
from tailrace.server.page import routes as page_routes
from tailrace.server.page.built_page import BuiltPage
from tailrace.server.request_log import STARTED
from tailrace.server.request_scope import (
    DEADLINES,
    HANDLER_TIMEOUT,
    IS_ADMITTED,
    QUEUE_PLACE,
    close_turn,
    release_body,
)
from tailrace.server.waiting_stream import SEND, waiting_stream

#: Each dialect's module of routes, by the name that the dashboard shows. The first one's routes come first.
_DIALECTS = {
    "OpenAI": openai,
    "llama-server": llama_server,
    "rerank": rerank,
    "Responses": responses,
    "Anthropic": anthropic,
    "Ollama": ollama,
}


def endpoints(app: AppState) -> list[Endpoint]:
    """Every route there is."""
    known = [
        *page_routes.routes(BuiltPage.find(), status_routes.root(app), enabled=app.settings.page == "on"),
        *status_routes.routes(app),
        *stats_routes.routes(app),
        *dashboard_routes.routes(app),
        *(replace(route, dialect=name) for name, dialect in _DIALECTS.items() for route in dialect.routes(app)),
    ]

    known += cluster_routes.routes(app, known)

    async def openapi(request: Request) -> Response:
        return json_response(described)

    own = Endpoint("GET", "/openapi.json", openapi, "This document", hidden=True)
    described = document(known)
    return [*known, own]


def make_app(app: AppState) -> ASGIApp:
    """The app around ``server``. Paths stand here without ``/v1``: the guard takes it off."""
    known = endpoints(app)
    app.metrics.is_ready = lambda: health.state(app) in ("ok", "draining")
    paths: dict[str, dict[str, list[Endpoint]]] = {}
    for endpoint in known:
        paths.setdefault(endpoint.path, {}).setdefault(endpoint.method, []).append(endpoint)
    # One route a path, so that a 405 lists all its methods. Paths without parameters come first.
    ordered = sorted(paths.items(), key=lambda entry: "{" in entry[0])
    routes = [Route(path, _by_method(app, methods), methods=list(methods)) for path, methods in ordered]
    router = Router(routes, redirect_slashes=False)
    return RequestMiddleware(
        _cleaning_up(app, router), app.keys, app.guard, app.forwarding, known, app.metrics, app.request_log
    )


def _cleaning_up(app: AppState, router: ASGIApp) -> ASGIApp:
    """The router; what a request has left of its place in the queue, its turn and its memory is given back at
    its end.
    """

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        scope[SEND] = (send, app.settings.keepalive_seconds)
        try:
            await router(scope, receive, send)
        finally:
            app.dashboard.running.leave(scope)
            close_turn(scope)
            if (waiting := waiting_stream(scope)) is not None:
                await waiting.hand_over()
            if (place := scope.get(QUEUE_PLACE)) is not None:
                place.close()
            app.memory_trim.request_ended(scope.get("state", {}).get("size", 0))

    return closing


def _by_method(app: AppState, methods: Mapping[str, list[Endpoint]]) -> Handler:
    """The handler of a path. Requests of endpoints that compute need a place in the queue."""
    handlers = {method: _handler(group) for method, group in methods.items()}
    admitted = {
        method: endpoint for method, group in methods.items() for endpoint in reversed(group) if endpoint.computes
    }

    async def handler(request: Request) -> Response:
        # The router lets a HEAD through where there is a GET.
        method = request.method if request.method in handlers else "GET"
        running: RunningRequest | None = None
        try:
            if method not in admitted:
                return await handlers[method](request)
            request.scope[IS_ADMITTED] = True
            endpoint = admitted[method]
            running = app.dashboard.running.enter(request.scope, endpoint.shown_path, endpoint.dialect)
            response = await _in_time(handlers[method], request, deadlines_of(request.headers, app.settings))
            waiting = waiting_stream(request.scope)
            return response if waiting is None else await waiting.continued(response)
        except BaseException:
            # A response cancels its generation; here there is no response.
            if (generation := request.scope.get(STARTED)) is not None:
                generation.cancel()
            if running is not None:
                running.raise_cancelled()
            raise
        finally:
            if running is not None:
                running.handled()
            release_body(request.scope)

    return handler


async def _in_time(handler: Handler, request: Request, deadlines: Deadlines | None) -> Response:
    """The handler's response. Raises DeadlineExceeded when a deadline passes before the engine has the request; then
    its generation watches them.
    """
    if deadlines is None:
        return await handler(request)
    request.scope[DEADLINES] = deadlines
    try:
        # The event loop's clock is the monotonic one.
        async with asyncio.timeout_at(deadlines.start) as timeout:
            request.scope[HANDLER_TIMEOUT] = timeout
            return await handler(request)
    except TimeoutError:
        # The event loop's timer may fire a nanosecond early, when the deadline hasn't passed by the clock.
        now = max(time.monotonic(), timeout.when() or 0.0)
        late = deadlines.late(now, queued=True, waits_for_token=True)
        if late is None or not timeout.expired():
            raise
        raise late from None


def _handler(group: list[Endpoint]) -> Handler:
    """The handler of a method on a path. Where there are several endpoints, the request's headers choose."""
    if len(group) == 1:
        return group[0].handler
    by_header = [endpoint for endpoint in group if endpoint.header is not None]
    (other,) = [endpoint for endpoint in group if endpoint.header is None]

    async def handler(request: Request) -> Response:
        chosen = next((endpoint for endpoint in by_header if endpoint.header in request.headers), other)
        return await chosen.handler(request)

    return handler
