"""The query parameters of the routes of stored responses and conversations."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.responses.request import Includable
from tailrace.server.query_params import read_query

_LISTS = {"include": "include", "include[]": "include"}


class RetrieveQuery(msgspec.Struct, kw_only=True):
    """The parameters of ``GET /v1/responses/{id}``."""

    include: list[Includable] | None = None
    stream: bool | None = None
    starting_after: Annotated[int, Meta(ge=0)] | None = None
    include_obfuscation: bool | None = None

    @classmethod
    def read(cls, request: Request) -> RetrieveQuery:
        """The request's parameters. Raises InvalidRequest."""
        query = read_query(cls, request, _LISTS)
        if query.starting_after is not None and not query.stream:
            raise InvalidRequest("'starting_after' needs 'stream=true'.", param="starting_after")
        return query


class PageQuery(msgspec.Struct, kw_only=True):
    """The parameters of the lists of a response's input items and of a conversation's items."""

    include: list[Includable] | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None
    order: Literal["asc", "desc"] | None = None

    @classmethod
    def read(cls, request: Request) -> PageQuery:
        """The request's parameters. Raises InvalidRequest."""
        return read_query(cls, request, _LISTS)
