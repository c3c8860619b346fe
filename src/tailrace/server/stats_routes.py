"""``GET /stats``: what limits the server now, as numbers and in words. Needs a key where the server has keys.

It has no texts of requests. Names of clients and of other programs are for the operator: see ``dashboard.operator``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tailrace.diagnosis.report import Stats
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.dashboard.operator import is_operator
from tailrace.server.endpoint import Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.open_streams import client_name


def routes(app: AppState) -> list[Endpoint]:
    """The route."""

    async def stats(request: Request) -> Response:
        caller = caller_of(request.scope)
        operator, own = is_operator(request), client_name(caller)
        return json_response(await app.stats.stats(reveal=lambda name: operator or name == own))

    return [
        Endpoint(
            "GET",
            "/stats",
            stats,
            "What limits the server now: figures of the last seconds, and findings in words",
            replies={200: Stats},
            shown="/stats",
        )
    ]
