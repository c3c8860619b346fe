"""llama-server's routes that load and unload models, and the status that its list of models has.

They follow llama-server's router: a load is ordered, and its end is seen in ``/v1/models``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest
from tailrace.server.app_state import AppState
from tailrace.server.dialects.llama_server.errors import ERRORS
from tailrace.server.endpoint import Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.models.model_service import ModelService

#: The states of a model as llama-server names them.
_STATES: dict[str, Literal["unloaded", "loading", "loaded"]] = {
    "starting": "loading",
    "serving": "loaded",
    "stopping": "unloaded",
    "unloaded": "unloaded",
    "failed": "unloaded",
}


class ModelRequest(msgspec.Struct):
    """The body of both routes."""

    model: str | None = None


class _Done(msgspec.Struct):
    """What they answer."""

    success: bool = True


_decoder = msgspec.json.Decoder(ModelRequest)


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``app``."""
    models = _Models(app)

    def endpoint(path: str, handler: Any, what: str, *statuses: int) -> Endpoint:
        return Endpoint(
            "POST",
            path,
            handler,
            what,
            body=ModelRequest,
            statuses=frozenset({400, 401, 404, *statuses}),
            replies={200: _Done},
            errors=ERRORS,
            shown=path,
        )

    return [
        endpoint("/models/load", models.load, "Load a model, before a request asks for it", 503),
        endpoint("/models/unload", models.unload, "Unload a model, once its running requests have ended"),
    ]


def model_status(service: ModelService) -> dict[str, object]:
    """The model's ``status`` in lists: its state, and why its last load failed."""
    status: dict[str, object] = {"value": _STATES[service.phase]}
    if service.phase == "failed":
        status |= {"failed": True, "reason": service.load_error().message}
    return status


class _Models:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def load(self, request: Request) -> Response:
        service = await self._named(request)
        if service.phase in ("starting", "serving"):
            raise InvalidRequest(f"The model '{service.name}' is loaded already, or loads.", param="model")
        await self._app.gate.load(service)
        return json_response(_Done())

    async def unload(self, request: Request) -> Response:
        service = await self._named(request)
        if not self._app.loads_on_demand:
            raise InvalidRequest("The only model that is served isn't unloaded; stop the server.", param="model")
        if service.spec.settings.pinned:
            raise InvalidRequest(f"The model '{service.name}' is pinned by the settings, so it stays.", param="model")
        if service.phase not in ("starting", "serving"):
            raise InvalidRequest(f"The model '{service.name}' isn't loaded.", param="model")
        self._app.gate.unload(service)
        return json_response(_Done())

    async def _named(self, request: Request) -> ModelService:
        payload = await self._app.read(request, _decoder)
        if not payload.model:
            raise InvalidRequest("'model' is missing: name a model.", param="model")
        return self._app.models.resolve(payload.model).service
