"""The OpenAPI document, made from the routes and the structs that decode their requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args

import msgspec

from tailrace import __version__
from tailrace.server.endpoint import Endpoint

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_ERRORS = {
    400: "A field is wrong, or the prompt doesn't fit the context",
    401: "The API key is missing or wrong",
    403: "The server doesn't let clients do that, or not under this host name or from this web page",
    404: "No such model or object",
    408: "The request's body didn't come in time",
    413: "The body is over the limit",
    415: "The body is compressed in a way that isn't decoded here",
    429: "The queue is full, or a limit of the key is reached; retry-after says when to try again",
    500: "The generation failed",
    501: "This server does nothing of the kind",
    502: "The model couldn't be fetched",
    503: "The engine is loading or restarting, or the server is stopping or too busy",
    504: "A time limit has passed",
}

#: The errors of the layer before the routes: host names and web pages that aren't let in.
_OF_EVERY_ROUTE = frozenset({403})
_RETRY_AFTER = {"description": "Seconds after which to try again", "schema": {"type": "integer", "minimum": 1}}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    shown = [endpoint for endpoint in endpoints if not endpoint.hidden]
    bodies = (kind for e in shown for kind in (e.body, e.errors.body, *e.replies.values()) if kind is not None)
    kinds = list(dict.fromkeys(bodies))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in shown:
        path = endpoint.shown_path
        operations = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
        operations[endpoint.method.lower()] = _operation(endpoint, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tailrace", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(endpoint: Endpoint, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    def schema(status: int, otherwise: dict[str, Any]) -> dict[str, Any]:
        kind = endpoint.replies.get(status)
        return {"schema": otherwise if kind is None else schema_of[kind]}

    content = {endpoint.media: schema(200, {"type": "object"}) if "json" in endpoint.media else {}}
    if endpoint.streams is not None:
        content[endpoint.streams] = {}  # OpenAPI 3.1 has no way to say what its events are.
    error = schema_of[endpoint.errors.body]
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer" if endpoint.streams is None else "The reply, or its events"}
            | {"content": content},
            **{
                str(status): {
                    "description": _ERRORS[status],
                    **({"headers": {"retry-after": _RETRY_AFTER}} if status in (429, 503) else {}),
                    "content": {"application/json": schema(status, error)},
                }
                for status in sorted(endpoint.statuses | _OF_EVERY_ROUTE)
            },
        },
    }
    if endpoint.body is not None:
        body = {"application/json": {"schema": schema_of[endpoint.body]}}
        operation["requestBody"] = {"required": True, "content": body}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(endpoint.path)
    ] + [
        {"name": field.encode_name, "in": "query", "required": False, "schema": _value_schema(field.type)}
        for field in (msgspec.structs.fields(endpoint.query) if endpoint.query is not None else ())
    ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _value_schema(kind: Any) -> dict[str, Any]:
    """Of what a parameter is when it is there: ``kind`` without its None."""
    (given,) = (one for one in get_args(kind) if one is not NoneType)
    return msgspec.json.schema(given)
