"""Who the operator is: the reader who may see other clients' names, other programs, the log and all requests."""

from __future__ import annotations

from starlette.requests import Request

from tailrace.server.caller import caller_of
from tailrace.server.keys.keys_file import DEFAULT_NAME

#: Headers that a proxy adds: behind it every client seems to be on this machine.
_PROXY_HEADERS = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "via"})


def is_operator(request: Request) -> bool:
    """Whether the sender is the holder of the setting ``api_key``, or a client on this machine without a named key."""
    caller = caller_of(request.scope)
    if caller.key_name is not None:
        return caller.key_name == DEFAULT_NAME
    local = caller.address in {"", "::1"} or caller.address.startswith("127.")
    return local and _PROXY_HEADERS.isdisjoint(request.headers.keys())
