"""The query parameters of the routes that look things up."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.responses.request import Includable

Q = TypeVar("Q", bound="_Query")


class _Query(msgspec.Struct, kw_only=True):
    """Parameters that are known; others are ignored."""

    lists: ClassVar[dict[str, str]] = {"include[]": "include"}

    include: list[Includable] | None = None

    @classmethod
    def read(cls: type[Q], request: Request) -> Q:
        """The request's parameters. Raises InvalidRequest, naming the one at fault."""
        given: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            name = cls.lists.get(name, name)
            if name == "include":
                given.setdefault(name, []).append(value)
            elif name in cls.__struct_fields__:
                given[name] = value
        for name, value in given.items():
            field = next(f for f in msgspec.structs.fields(cls) if f.name == name)
            try:
                given[name] = msgspec.convert(value, field.type, strict=False)
            except msgspec.ValidationError as error:
                raise InvalidRequest(f"Invalid value for '{name}': {error}.", param=name) from None
        return cls(**given)


class RetrieveQuery(_Query):
    """Of ``GET /v1/responses/{id}``."""

    stream: bool | None = None
    starting_after: Annotated[int, Meta(ge=0)] | None = None
    include_obfuscation: bool | None = None

    @classmethod
    def read(cls, request: Request) -> RetrieveQuery:
        """See ``_Query``."""
        query = super().read(request)
        if query.starting_after is not None and not query.stream:
            raise InvalidRequest("'starting_after' needs 'stream=true'.", param="starting_after")
        return query


class InputItemsQuery(_Query):
    """Of ``GET /v1/responses/{id}/input_items`` and ``GET /v1/conversations/{id}/items``."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None
    order: Literal["asc", "desc"] | None = None
