"""Requests that the cluster's ingress forwards to this replica, by the rules of ``cluster_protocol.forwarding``.

A forwarded request is known by the cluster's secret. Its caller is the client of the ingress, it waits in silence until
an engine works on it, and it is told so before the head of its response.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.types import Scope

from tailrace.cluster_protocol.forwarding import BEGUN, CLIENT_HEADER
from tailrace.cluster_protocol.state import SECRET_HEADER
from tailrace.server.request_cycle import RAW_RESPONSE, RawResponse

_SECRET = SECRET_HEADER.encode()
_CLIENT = CLIENT_HEADER.encode()
#: The key of an ASGI scope that marks a forwarded request.
_FORWARDED = "tailrace.forwarded"


class Forwarding:
    """Tells the ingress's requests from all others."""

    def __init__(self, secret: str | None) -> None:
        """``secret`` None: there is no ingress."""
        self._secret = None if secret is None else secret.encode()

    def take(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
        """The address of the client behind a forwarded request, which is marked in its scope; None for others."""
        given = headers.get(_SECRET)
        if given is None or self._secret is None or not hmac.compare_digest(given, self._secret):
            return None
        scope[_FORWARDED] = True
        return headers.get(_CLIENT, b"").decode("latin-1")


def is_forwarded(scope: Scope) -> bool:
    """Whether the cluster's ingress has forwarded the request with this scope."""
    return _FORWARDED in scope


def report_begun(scope: Scope) -> None:
    """An engine works on the request with this scope. Without effect where it isn't forwarded."""
    if _FORWARDED in scope:
        response: RawResponse = scope["extensions"][RAW_RESPONSE]["response"]
        response.write_interim(BEGUN)
