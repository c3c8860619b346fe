"""The private routes of a replica, for the cluster's ingresses: its state, and a request's prompts.

They exist with the setting ``cluster_secret`` alone, and answer requests that have the secret.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.cluster_protocol.state import SECRET_HEADER, PromptChains
from tailrace.errors import NotFound, Unauthorized
from tailrace.server.app_state import AppState
from tailrace.server.cluster.prompt_probe import PromptsFound, mark_probe, no_prompt
from tailrace.server.endpoint import Endpoint
from tailrace.server.forwarding import is_forwarded
from tailrace.server.json_response import json_response
from tailrace.server.middleware import canonical
from tailrace.server.ndjson import MEDIA_TYPE
from tailrace.server.request_scope import IS_ADMITTED, QUEUE_PLACE, close_turn, release_body
from tailrace.server.waiting_stream import waiting_stream


class PromptQuery(msgspec.Struct):
    """The parameters of ``POST /cluster/prompt``."""

    path: str | None = None  #: of the request whose body this is


def routes(app: AppState, known: Sequence[Endpoint]) -> list[Endpoint]:
    """The routes. ``known``: all others, of which those that generate have prompts."""
    feed = app.state_feed
    if feed is None:
        return []
    generating = [endpoint for endpoint in known if endpoint.computes and endpoint.method == "POST"]

    async def state(request: Request) -> Response:
        _check_secret(request)
        return feed.response()

    async def prompt(request: Request) -> Response:
        _check_secret(request)
        return json_response(await _probe(request, generating))

    return [
        Endpoint(
            "GET",
            "/cluster/state",
            state,
            "This replica's state, for the cluster's ingress",
            media=MEDIA_TYPE,
            shown="/cluster/state",
            hidden=True,
        ),
        Endpoint(
            "POST",
            "/cluster/prompt",
            prompt,
            "A request's prompts as hashes, for the cluster's ingress",
            query=PromptQuery,
            shown="/cluster/prompt",
            hidden=True,
        ),
    ]


def _check_secret(request: Request) -> None:
    if not is_forwarded(request.scope):
        raise Unauthorized(
            f"This route is the cluster's own: send its secret in the header '{SECRET_HEADER}'.",
            code="invalid_cluster_secret",
        )


async def _probe(request: Request, generating: Sequence[Endpoint]) -> PromptChains:
    """The prompts of the request that this one's body and headers would be on the named path."""
    path = canonical(request.query_params.get("path", ""))
    headers = request.headers
    group = sorted(
        (each for each in generating if each.path == path and (each.header is None or each.header in headers)),
        key=lambda each: each.header is None,
    )
    if not group:
        raise NotFound(f"'path' names no route that generates: {path[:200]!r}.")
    scope = {**request.scope, "path": path, "raw_path": path.encode(), IS_ADMITTED: True}
    mark_probe(scope)
    try:
        await group[0].handler(Request(scope, request.receive))
    except PromptsFound as found:
        return found.chains
    finally:
        # As at the end of every request: no generation has taken these over.
        close_turn(scope)
        release_body(scope)
        if (waiting := waiting_stream(scope)) is not None:
            await waiting.hand_over()
        if (place := scope.get(QUEUE_PLACE)) is not None:
            place.close()
    raise no_prompt()
