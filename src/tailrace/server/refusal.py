"""Refusals that a connection decides on, before any route is known.

That of a request is raised by the middleware, so that it has the shape of the path's dialect. Routes about the server
itself answer anyway. What is no request is answered by the connection itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tailrace.errors import RequestError, TooManyRequests
from tailrace.server.json_response import error_envelope

_SCOPE_KEY = "tailrace.refusal"


def set_refusal(scope: Scope, error: RequestError) -> None:
    """Leave the refusal in the request's scope."""
    scope[_SCOPE_KEY] = error


def refusal_of(scope: Scope) -> RequestError | None:
    """The refusal that the connection has set; None for a request to serve."""
    error: RequestError | None = scope.get(_SCOPE_KEY)
    return error


def refusal_response(
    error: RequestError, status: int | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """The whole response for bytes that are no request, or for a connection that isn't served. ``status`` None is the
    error's own.
    """
    body = msgspec.json.encode(error_envelope(error))
    lines = [*headers, *((name.encode(), value.encode()) for name, value in error.headers.items())]
    head = [STATUS_LINE[error.status if status is None else status], *(b"%b: %b\r\n" % line for line in lines)]
    head.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    return b"".join([*head, body])


def too_many_connections() -> TooManyRequests:
    """The refusal of a client for which there is no place."""
    return TooManyRequests(
        "The server has too many connections; close some, or try again.", code="too_many_connections", retry_after=2
    )
