"""The sender of a request, as far as the server shares its time and its data between senders.

The middleware sets it once for each request. Fairness, quotas, logs and stored responses read it here.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

#: The key of an ASGI scope under which the middleware leaves the caller.
_SCOPE_KEY = "tailrace.caller"


@dataclass(frozen=True)
class Caller:
    """One sender: an API key, or a client's address where the request has no key."""

    address: str  #: of the client's end of the connection; empty for a Unix socket
    key_name: str | None = None  #: the name of the API key, never the key itself

    @property
    def identity(self) -> str:
        """What requests of one sender have in common."""
        return f"address:{self.address}" if self.key_name is None else f"key:{self.key_name}"


def set_caller(scope: Scope, caller: Caller) -> None:
    """Leave the caller in the request's scope."""
    scope[_SCOPE_KEY] = caller


def caller_of(scope: Scope) -> Caller:
    """The caller that the middleware has set."""
    caller: Caller = scope[_SCOPE_KEY]
    return caller


def client_address(scope: Scope) -> str:
    """The address of the connection's other end."""
    client = scope.get("client")
    return "" if client is None else str(client[0])
