"""``GET /cluster/state``: lines by which the ingress follows a replica. ``cluster_state`` has their messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tailrace.cluster_state import (
    CHANGE_SECONDS,
    HEARTBEAT_SECONDS,
    STATE_VERSION,
    ModelLoad,
    ReplicaPhase,
    ReplicaState,
    StateChange,
    StateHeartbeat,
    StateMessage,
)
from tailrace.server import health, ndjson
from tailrace.server.app_state import AppState
from tailrace.server.cluster.model_load import load_of
from tailrace.server.endpoint import Endpoint


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``; none without a ``cluster_secret``."""
    if app.settings.cluster_secret is None:
        return []
    return [Endpoint("GET", "/cluster/state", _State(app).stream, "For the cluster's ingress", hidden=True)]


class _State:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def stream(self, request: Request) -> Response:
        return StreamingResponse(self._lines(), headers={"cache-control": "no-cache"}, media_type=ndjson.MEDIA_TYPE)

    async def _lines(self) -> AsyncIterator[bytes]:
        """A state, then what changes. It ends when the server stops and has nothing to do any more."""
        phase, loads = self._phase, self._loads()
        sent_at = time.monotonic()
        yield _line(ReplicaState(version=STATE_VERSION, phase=phase, models=loads))
        while not (self._app.draining and not self._app.in_flight):
            await asyncio.sleep(CHANGE_SECONDS)
            now_phase, now_loads = self._phase, self._loads()
            message: StateMessage | None = None
            if (now_phase, now_loads) != (phase, loads):
                message = StateChange(
                    phase=None if now_phase == phase else now_phase, models=None if now_loads == loads else now_loads
                )
            elif time.monotonic() - sent_at >= HEARTBEAT_SECONDS - CHANGE_SECONDS:
                message = StateHeartbeat()
            if message is not None:
                phase, loads, sent_at = now_phase, now_loads, time.monotonic()
                yield _line(message)

    @property
    def _phase(self) -> ReplicaPhase:
        if self._app.draining:
            return "draining"
        return "ready" if health.state(self._app) == "ok" else "starting"

    def _loads(self) -> list[ModelLoad]:
        return [load_of(service) for service in self._app.models.services]


def _line(message: StateMessage) -> bytes:
    return msgspec.json.encode(message) + b"\n"
