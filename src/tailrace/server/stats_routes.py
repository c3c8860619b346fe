"""``GET /stats``: what limits the server now, as numbers and in words. Needs a key where the server has keys.

It has no texts of requests. Names of clients and of other programs are for the operator: see ``_is_operator``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tailrace.diagnosis.report import Stats
from tailrace.server.app_state import AppState
from tailrace.server.caller import Caller, caller_of
from tailrace.server.endpoint import Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.keys.keys_file import DEFAULT_NAME
from tailrace.server.open_streams import client_name

#: Headers that a proxy adds: behind it every client seems to be on this machine.
_PROXY_HEADERS = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "via"})


def routes(app: AppState) -> list[Endpoint]:
    """The route."""

    async def stats(request: Request) -> Response:
        caller = caller_of(request.scope)
        operator, own = _is_operator(caller, request), client_name(caller)
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


def _is_operator(caller: Caller, request: Request) -> bool:
    """Whether the sender may see other clients' addresses and keys' names, and other programs' names.

    It is the holder of the setting ``api_key``, or a client on this machine without a named key.
    """
    if caller.key_name is not None:
        return caller.key_name == DEFAULT_NAME
    local = caller.address in {"", "::1"} or caller.address.startswith("127.")
    return local and _PROXY_HEADERS.isdisjoint(request.headers.keys())
