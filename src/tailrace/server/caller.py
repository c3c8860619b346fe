"""The sender of a request, as far as the server shares its time and its data between senders.

The middleware sets it once for each request. Fairness, quotas, logs, stored responses and lists of models read it here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.types import Scope

from tailrace.server.keys.allowance import Place

#: The key of an ASGI scope under which the middleware leaves the caller.
_SCOPE_KEY = "tailrace.caller"
#: The same for the request's place among those of its key.
_PLACE_KEY = "tailrace.place"


@dataclass(frozen=True)
class Caller:
    """One sender: an API key, or a client's address where the request has no key."""

    address: str  #: of the client's end of the connection; empty for a Unix socket
    key_name: str | None = None  #: the name of the API key, never the key itself
    owner: str = ""  #: of the objects that the request stores: the key's id; empty without a named key
    models: tuple[str, ...] = ()  #: patterns of the models that the key may use; none: all

    @property
    def identity(self) -> str:
        """What requests of one sender have in common."""
        return f"address:{self.address}" if self.key_name is None else f"key:{self.key_name}"

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether the caller may use the model with these names."""
        return not self.models or any(fnmatchcase(name, pattern) for name in names for pattern in self.models)


_UNKNOWN = Caller("")
#: Each request has a task, and so a context, of its own.
_current: ContextVar[Caller] = ContextVar("tailrace_caller", default=_UNKNOWN)


def set_caller(scope: Scope, caller: Caller, place: Place | None = None) -> None:
    """Leave the caller, and its place where it has a named key, in the request's scope and context."""
    scope[_SCOPE_KEY] = caller
    scope[_PLACE_KEY] = place
    _current.set(caller)


def caller_of(scope: Scope) -> Caller:
    """The caller that the middleware has set."""
    caller: Caller = scope[_SCOPE_KEY]
    return caller


def current_caller() -> Caller:
    """The caller of the request whose task this is; one without a key elsewhere."""
    return _current.get()


def place_of(scope: Scope) -> Place | None:
    """The request's place. None without a named key, and on routes that don't compute."""
    place: Place | None = scope.get(_PLACE_KEY)
    return place


def client_address(scope: Scope) -> str:
    """The address of the connection's other end."""
    client = scope.get("client")
    return "" if client is None else str(client[0])
