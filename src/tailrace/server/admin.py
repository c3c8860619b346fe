"""The routes that tell about the server itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tailrace.observe.metrics import CONTENT_TYPE
from tailrace.server.endpoint import Endpoint
from tailrace.server.respond import json_response
from tailrace.server.server import Server


def routes(server: Server) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    admin = _Admin(server)
    return [
        Endpoint("GET", "/", admin.root, "What this is", statuses=frozenset(), hidden=True),
        Endpoint(
            "GET",
            "/health",
            admin.health,
            "Whether the engine makes progress; 503 while it is loading, restarting or stalled",
            statuses=frozenset({503}),
            shown="/health",
        ),
        Endpoint("GET", "/metrics", admin.metrics, "Prometheus metrics", media="text/plain", shown="/metrics"),
    ]


class _Admin:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def root(self, request: Request) -> Response:
        return json_response({"name": "tailrace", **self._status()})

    async def health(self, request: Request) -> Response:
        status = self._status()
        return json_response(status, 200 if status["status"] == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._server.metrics.render(), headers={"content-type": CONTENT_TYPE})

    def _status(self) -> dict[str, object]:
        """What is told without a key: where one is asked for, the model's name isn't part of it."""
        server = self._server
        model = {} if server.settings.api_key else {"model": server.model_name}
        status: dict[str, object] = {"status": server.engine.state, **model}
        if server.replicas > 1:
            status |= {"replicas": server.replicas, "replicas_ready": server.engine.replicas_ready}
        return status
