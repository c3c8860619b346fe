"""Where the server is: its address, how its paths begin, and the key. Opens no connection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit


class CheckError(Exception):
    """The server can't be checked at all; says why."""


class WrongOption(CheckError):
    """What was asked for doesn't exist: an address, a rule, a dialect."""


@dataclass(frozen=True)
class Target:
    """One server. ``root`` is what stands before every path, ``api`` what stands before OpenAI's (``/v1`` mostly);
    ``key`` shows up in no representation.
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
        """The address as it may be shown: without anything secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.secure else 80)
        return f"{'https' if self.secure else 'http'}://{host}{'' if standard else f':{self.port}'}{self.api}"

    @property
    def authority(self) -> str:
        """What goes into the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def with_api(self, api: str) -> Target:
        """The same server, with OpenAI's paths elsewhere."""
        return replace(self, api=api)


def parse(url: str, *, key: str | None = None, verify: bool = True) -> Target:
    """The server at ``url``: its root, or what clients are told as base URL (``https://host/prefix/v1``).

    Raises WrongOption for what is no address of a server.
    """
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise WrongOption(f"this is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WrongOption("the address has to begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise WrongOption("a user or password in the address isn't taken; give the key with --key or TAILRACE_API_KEY")
    if parts.query or parts.fragment:
        raise WrongOption("the address may have no query and no fragment")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/")
    root = path.removesuffix("/v1")
    # A path of another kind is the base URL itself or stands before /v1; the runner looks which.
    api = path if path.endswith("/v1") else f"{path}/v1"
    if key is not None and not (key.isascii() and key.isprintable()):
        raise WrongOption("the key has characters that no header can carry")
    return Target(secure, parts.hostname, port or (443 if secure else 80), root, api, key, verify)
