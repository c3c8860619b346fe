"""Applies the rules about hosts and origins to a request, and makes the CORS headers of its response.

CORS headers alone protect nothing: a browser sends a simple POST (``text/plain``) before it knows them. So a foreign
page's request is refused before it has an effect.
"""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.errors import ConfigurationError, Forbidden
from tailrace.server.browsers.hosts import AllowedHosts
from tailrace.server.browsers.origins import AllowedOrigins
from tailrace.settings import Settings

#: Methods without an effect. A page of a foreign origin can't read their responses.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: The methods that a preflight's answer allows.
_METHODS = b"GET, POST, DELETE, HEAD, OPTIONS"
#: The response headers that a page's script may read, for reports and for pauses.
_EXPOSED = (
    b"access-control-expose-headers",
    b"x-request-id, request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
)
_VARY = (b"vary", b"Origin")

Headers = Mapping[bytes, bytes]


class BrowserGuard:
    """See the module. One for all requests."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError."""
        self._hosts = AllowedHosts(settings.host, settings.allowed_hosts)
        self._origins = AllowedOrigins(settings.cors_origins)

    @property
    def lets_any_page_in(self) -> bool:
        """Whether every page of the web may send requests that have an effect."""
        return self._hosts.open or self._origins.open

    def check(self, method: str, headers: Headers) -> None:
        """Raise Forbidden when a page that may not call this server is behind the request. For servers without keys."""
        host = headers.get(b"host")
        if not self._hosts.allows(host):
            raise Forbidden(
                f"This server doesn't answer to the host name {_shown(host)}, so that no web page can reach it under a "
                "name of its own. If the name is yours, add it to the server's setting allowed_hosts, or use API keys.",
                code="forbidden_host",
            )
        if method in _READING:
            return
        origin = headers.get(b"origin")
        if origin is None:
            if headers.get(b"sec-fetch-site") == b"cross-site" and not self._origins.open:
                raise Forbidden(
                    "A web page of another site sent this request. If the page is yours, add its origin to the "
                    "server's setting cors_origins, or use API keys.",
                    code="forbidden_origin",
                )
        elif not self._may_call(origin, host):
            raise Forbidden(
                f"Pages of the origin {_shown(origin)} may not call this server. If the page is yours, add its origin "
                "to the server's setting cors_origins, or use API keys.",
                code="forbidden_origin",
            )

    def response_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """The CORS headers that every response has, errors and streams included."""
        if self._origins.open:
            return [(b"access-control-allow-origin", b"*"), _EXPOSED]
        origin = headers.get(b"origin")
        # A page of this server itself needs none.
        if origin is None or not self._origins.allows(origin):
            return [_VARY]
        return [(b"access-control-allow-origin", origin), _EXPOSED, _VARY]

    def preflight_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Those of the answer to a browser that asks what a page may send; none for a foreign page."""
        origin = headers.get(b"origin")
        if origin is not None and not self._origins.allows(origin):
            return []
        asked = headers.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
        allowed = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]
        # A page of a public address asks before it reaches into a private network (Private Network Access).
        if headers.get(b"access-control-request-private-network") == b"true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        return allowed

    def _may_call(self, origin: bytes, host: bytes | None) -> bool:
        return self._origins.allows(origin) or _is_same_origin(origin, host)


def check_open_management(settings: Settings, guard: BrowserGuard, *, keyed: bool) -> None:
    """Raise ConfigurationError when every page of the web could fetch and delete models."""
    if settings.manage_models and guard.lets_any_page_in and not keyed:
        raise ConfigurationError(
            "manage_models without a key can't be used with cors_origins or allowed_hosts '*': any web page could "
            "delete models. Make a key (tailrace keys create NAME), or name the origins and hosts."
        )


def _is_same_origin(origin: bytes, host: bytes | None) -> bool:
    """Whether a page of this server, under this name, has sent the request. The scheme isn't known behind a proxy."""
    scheme, found, authority = origin.partition(b"://")
    if not found or host is None or scheme.lower() not in (b"http", b"https"):
        return False
    return authority.lower() == host.lower()


def _shown(value: bytes | None) -> str:
    """A client's value for a message: short, without control characters."""
    text = (value or b"").decode("latin-1")[:200]
    return "'" + "".join(character if character.isprintable() else "?" for character in text) + "'"
