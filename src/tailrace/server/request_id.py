"""The id that a request has in its response's ``x-request-id``, in log lines and in Anthropic's errors.

A proxy's id is taken over, so that one id names the request in every log on its way.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from starlette.types import Scope

HEADER = b"x-request-id"

#: The key of an ASGI scope under which the guard leaves the id.
_KEY = "tailrace.request_id"
#: The ids that are taken over: they break no header, no log line and no terminal.
_TAKEN = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def new_request_id() -> str:
    """An id in Anthropic's form, which suits OpenAI's clients as well."""
    return f"req_{secrets.token_hex(12)}"


def name_request(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id of the request: the client's own if it has sent one, else a new one. ``request_id`` finds it again."""
    given = next((value for name, value in headers if name == HEADER), b"")
    identity = given.decode("ascii") if _TAKEN.fullmatch(given) else new_request_id()
    scope[_KEY] = identity
    return identity


def request_id(scope: Scope) -> str:
    """The id that ``name_request`` gave the request."""
    identity: str = scope[_KEY]
    return identity
