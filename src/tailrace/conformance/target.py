"""The address of the server, the prefixes of its paths, and the API key. Opens no connection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit


class CheckError(Exception):
    """The server can't be checked at all; the text says why."""


class InvalidOption(CheckError):
    """An option names an address, a rule or a dialect that doesn't exist."""


@dataclass(frozen=True)
class Target:
    """One server. ``root`` is the prefix of every path, ``api`` the prefix of OpenAI's paths (mostly ``/v1``).

    ``key`` is left out of ``repr``.
    """

    secure: bool
    host: str
    port: int
    root: str
    api: str
    key: str | None = field(repr=False, default=None)
    verify: bool = True

    @property
    def url(self) -> str:
        """The address without secrets, for reports."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.secure else 80)
        return f"{'https' if self.secure else 'http'}://{host}{'' if standard else f':{self.port}'}{self.api}"

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def with_api(self, api: str) -> Target:
        """The same server with another prefix of OpenAI's paths."""
        return replace(self, api=api)


def parse(url: str, *, key: str | None = None, verify: bool = True) -> Target:
    """The server at ``url``: its root, or the base URL that clients use (``https://host/prefix/v1``).

    Raises InvalidOption for any other text.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise InvalidOption(f"this is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidOption("the address has to begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidOption(
            "a user or password in the address isn't taken; give the key with --key or TAILRACE_API_KEY"
        )
    if parts.query or parts.fragment:
        raise InvalidOption("the address may have no query and no fragment")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/")
    root = path.removesuffix("/v1")
    # Another path is either the base URL itself or a prefix of /v1; the runner tries both.
    api = path if path.endswith("/v1") else f"{path}/v1"
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidOption("the key has characters that no header can carry")
    return Target(secure, parts.hostname, port or (443 if secure else 80), root, api, key, verify)
