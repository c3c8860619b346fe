"""The origins whose pages may send requests to this server and read its replies (the setting ``cors_origins``).

An origin is ``scheme://host[:port]``, as browsers write it (RFC 6454, section 6.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tailrace.errors import ConfigurationError
from tailrace.server.browsers.hosts import host_name, is_loopback

#: Stands for pages and apps of the client's own machine in the setting.
LOCAL = "local"
#: Schemes of apps' own pages. A page of the web can't have them.
_APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-file", "vscode-webview"})
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/:@?#\s]*|\[[0-9a-f:.]*\])(?::(\d{1,5}|\*))?")
#: Max origins whose check is remembered.
_MAX_REMEMBERED = 256


@dataclass(frozen=True)
class _Rule:
    scheme: str
    host: str  #: ``*`` is any; ``*.example.org`` is every name below
    port: str | None  #: ``*`` is any; None is the scheme's own

    def allows(self, scheme: str, host: str, port: str | None) -> bool:
        if self.scheme != scheme or self.port not in ("*", port):
            return False
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))


class AllowedOrigins:
    """See the module. ``open``: pages of every origin may call."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """``allowed``: entries of the setting. Raises ConfigurationError."""
        self.open = "*" in allowed
        self._local = LOCAL in allowed
        self._rules = tuple(_rule(entry) for entry in allowed if entry not in ("*", LOCAL))
        self._remembered: set[bytes] = set()

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may call. ``null`` is the origin of pages without one: any page can have it, by
        a sandboxed frame.
        """
        if self.open or origin in self._remembered:
            return True
        found = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
        if found is None:
            return False
        scheme, host, port = found.groups()
        if not (self._local and _is_local(scheme, host)) and not any(
            rule.allows(scheme, host, port) for rule in self._rules
        ):
            return False
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered.add(origin)
        return True


def _is_local(scheme: str, host: str) -> bool:
    """Whether an app of the client's machine, or a page that is served there, has this origin."""
    return scheme in _APP_SCHEMES or (
        scheme in ("http", "https") and (is_loopback(host_name(host)) or host == "0.0.0.0")
    )


def _rule(entry: str) -> _Rule:
    found = _ORIGIN.fullmatch(entry.strip().lower())
    if found is None or "*" in found[2].removeprefix("*"):
        raise ConfigurationError(
            f"cors_origins has {entry!r}, which is no origin: write https://chat.example.org (no path, no final "
            f"slash), https://*.example.org, http://example.org:* for every port, {LOCAL} for apps of the client's own "
            "machine, or * for every page"
        )
    return _Rule(*found.groups())
