"""Reads the query parameters of a route into a struct. Unknown parameters are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from tailrace.errors import InvalidRequest

Q = TypeVar("Q", bound=msgspec.Struct)


def read_query(kind: type[Q], request: Request, lists: Mapping[str, str] = {}) -> Q:
    """The request's parameters as a ``kind``. Raises InvalidRequest, naming the wrong parameter.

    ``lists`` has the parameters that may repeat: their names in the query, and the fields that get their values.
    """
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        field = lists.get(name, name)
        if field in lists.values():
            given.setdefault(field, []).append(value)
        elif field in kind.__struct_fields__:
            given[field] = value
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in given.items():
        try:
            given[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"Invalid value for '{name}': {error}.", param=name) from None
    return kind(**given)
