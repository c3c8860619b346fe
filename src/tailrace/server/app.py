"""The ASGI app: every dialect's routes behind one guard. The only module that knows the dialects."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from tailrace.server import admin
from tailrace.server.dialects.openai import routes as openai
from tailrace.server.endpoint import Endpoint
from tailrace.server.guard import Guard
from tailrace.server.openapi import document
from tailrace.server.respond import json_response
from tailrace.server.server import Server


def endpoints(server: Server) -> list[Endpoint]:
    """Every route there is."""
    known = [*admin.routes(server), *openai.routes(server)]

    async def openapi(request: Request) -> Response:
        return json_response(described)

    own = Endpoint("GET", "/openapi.json", openapi, "This document", hidden=True)
    described = document(known)
    return [*known, own]


def make_app(server: Server) -> ASGIApp:
    """The app around ``server``. Paths stand here without ``/v1``: the guard takes it off."""
    known = endpoints(server)
    router = Router([Route(e.path, e.handler, methods=[e.method]) for e in known], redirect_slashes=False)
    return Guard(router, server.settings, known, server.metrics.responded)
