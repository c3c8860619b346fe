"""The refusal of a request that its connection has decided on, before any route is known.

The middleware raises it, so that it has the shape of the path's dialect. Routes about the server itself answer anyway.
"""

from __future__ import annotations

from starlette.types import Scope

from tailrace.errors import RequestError

_SCOPE_KEY = "tailrace.refusal"


def set_refusal(scope: Scope, error: RequestError) -> None:
    """Leave the refusal in the request's scope."""
    scope[_SCOPE_KEY] = error


def refusal_of(scope: Scope) -> RequestError | None:
    """The refusal that the connection has set; None for a request to serve."""
    error: RequestError | None = scope.get(_SCOPE_KEY)
    return error
