"""The routes about the server itself: its name, its health and its metrics."""

from __future__ import annotations

import asyncio
import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import EngineUnavailable
from tailrace.observe.exposition import CONTENT_TYPE
from tailrace.server import health
from tailrace.server.app_state import AppState
from tailrace.server.endpoint import Endpoint, Handler
from tailrace.server.json_response import json_response

#: Seconds for which metrics are written without a pause.
_SLICE_SECONDS = 0.005


def root(app: AppState) -> Handler:
    """The answer at ``/`` for programs: the server's name and health."""
    return _Admin(app).root


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    admin = _Admin(app)
    return [
        Endpoint(
            "GET",
            "/health",
            admin.health,
            "Whether the engine makes progress; 503 while it is loading, restarting or stalled",
            statuses=frozenset({503}),
            replies={200: Status, 503: Status},
            shown="/health",
        ),
        Endpoint(
            "GET",
            "/health/ready",
            admin.health,
            "Whether requests are taken; 503 while the engine is loading, restarting or stalled, and at shutdown",
            statuses=frozenset({503}),
            replies={200: Status, 503: Status},
            shown="/health/ready",
        ),
        Endpoint(
            "GET",
            "/health/live",
            admin.live,
            "Whether the HTTP process answers",
            statuses=frozenset(),
            replies={200: Status},
            shown="/health/live",
        ),
        Endpoint("GET", "/metrics", admin.metrics, "Prometheus metrics", media="text/plain", shown="/metrics"),
    ]


class Status(msgspec.Struct, omit_defaults=True):
    """The answer without an API key. A server with keys, or with several models, leaves the model's name out."""

    status: str  #: "ok", "loading", "restarting", "stalled" or "draining"
    model: str | None = None
    reason: str | None = None  #: what the only model waits for
    #: Only with several replicas: how many there are, and how many make progress.
    replicas: int | None = None
    replicas_ready: int | None = None
    #: Only with several models: how many there are, and how many of them are loaded.
    models: int | None = None
    models_loaded: int | None = None


class _Admin:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def root(self, request: Request) -> Response:
        return json_response({"name": "tailrace", **msgspec.to_builtins(self._status())})

    async def health(self, request: Request) -> Response:
        status = self._status()
        if status.status == "ok":
            return json_response(status)
        return json_response(status, 503, headers={"retry-after": str(EngineUnavailable.retry_after)})

    async def live(self, request: Request) -> Response:
        return json_response(Status("ok"))

    async def metrics(self, request: Request) -> Response:
        started = {"process-start-time-unix": str(self._app.created)}  # llama-server's
        lines: list[str] = []
        await self._app.hardware.refresh()
        began = time.monotonic()
        for line in self._app.metrics.lines():
            lines.append(line)
            if time.monotonic() - began > _SLICE_SECONDS:
                await asyncio.sleep(0)  # Each model has some hundred lines, and streams go on meanwhile.
                began = time.monotonic()
        return Response("".join(lines).encode(), headers={"content-type": CONTENT_TYPE, **started})

    def _status(self) -> Status:
        app = self._app
        services = app.models.services
        status = Status(health.state(app))
        if app.loads_on_demand:
            status.models = len(services)
            status.models_loaded = sum(service.is_loaded for service in services)
            return status
        (service,) = services
        status.model = None if app.keys.required else service.name
        status.reason = (service.reason or None) if status.status != "ok" else None
        if service.replicas > 1:
            status.replicas, status.replicas_ready = service.replicas, service.engine.replicas_ready
        return status
