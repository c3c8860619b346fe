"""One endpoint: its handler, and its part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import RequestError
from tailrace.server.json_response import ErrorEnvelope, error_response
from tailrace.server.keys.limit_headers import LimitStyle

Handler = Callable[[Request], Awaitable[Response]]

#: The error statuses of every endpoint that generates.
GENERATION_ERRORS = frozenset({400, 401, 404, 408, 413, 415, 429, 500, 503, 504})


@dataclass(frozen=True)
class ErrorFormat:
    """How a dialect reports an error: ``respond`` makes the response of the error and the request's id, and ``body`` is
    the struct of its JSON. The guard adds the headers that every response has.
    """

    respond: Callable[[RequestError, str], Response]
    body: type
    limits: LimitStyle = "openai"  #: the names of the headers that show a key's limits


OPENAI_ERRORS = ErrorFormat(error_response, ErrorEnvelope)


@dataclass(frozen=True)
class Endpoint:
    """``method`` on ``path`` (without ``/v1``, which the guard takes off; ``{id}`` and ``{id:path}`` are parameters).

    ``shown`` is the path in the documentation, where it isn't ``/v1`` and the path. With ``header`` the endpoint
    answers requests that have it, before others on the same path; errors of such requests have this endpoint's format.
    """

    method: Literal["GET", "POST", "DELETE", "HEAD"]
    path: str
    handler: Handler
    summary: str
    body: type | None = None  #: the struct that decodes the request's body
    query: type | None = None  #: a struct with the parameters that are read behind the path's "?", all optional
    statuses: frozenset[int] = frozenset({401})  #: of the errors that can come
    streams: str | None = None  #: the media type of the streamed form of the reply, where there is one
    media: str = "application/json"  #: of the reply
    replies: Mapping[int, type] = field(
        default_factory=dict
    )  #: structs of bodies, by status, where it isn't ``errors``
    errors: ErrorFormat = field(default=OPENAI_ERRORS)
    shown: str | None = None
    hidden: bool = False  #: not in the document
    header: str | None = None  #: in lower case
    dialect: str = ""  #: the name of its dialect; empty: it has none
    fetches: bool = False  #: it works without an engine: neither the queue nor a key's limits count it

    @property
    def shown_path(self) -> str:
        """The path as clients write it."""
        return self.shown or f"/v1{self.path}"

    @property
    def computes(self) -> bool:
        """Whether its requests have places in the queue and in the limits of their keys."""
        return 429 in self.statuses and not self.fetches
