"""The OpenAPI document, made from the structs that decode the requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from tailrace import __version__
from tailrace.server.respond import ErrorEnvelope

_REF = "#/components/schemas/{name}"
_ERRORS = {
    "400": "A field is wrong, or the prompt doesn't fit the context; `param` names the field",
    "401": "The API key is missing or wrong",
    "404": "No such model",
    "413": "The body is over the limit",
    "500": "The generation failed",
    "503": "The engine is loading or restarting; Retry-After says when to try again",
}


@cache
def document(chat_request: type, completion_request: type) -> dict[str, Any]:
    """The document, OpenAPI 3.1; the arguments are the structs that decode the two bodies."""
    (chat, text, error), components = msgspec.json.schema_components(
        [chat_request, completion_request, ErrorEnvelope], ref_template=_REF
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "tailrace", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/chat/completions": {"post": _generating("Chat completion", chat, error)},
            "/v1/completions": {"post": _generating("Text completion", text, error)},
            "/v1/models": {"get": _reading("The served models", error, {"401"})},
            "/v1/models/{id}": {
                "get": {
                    **_reading("One served model", error, {"401", "404"}),
                    "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                }
            },
            "/health": {
                "get": {
                    "summary": "Whether the engine makes progress",
                    "responses": {
                        "200": _response("It does", {"type": "object"}),
                        "503": _response("It is loading, restarting or stalled", {"type": "object"}),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Prometheus metrics",
                    "responses": {
                        "200": {"description": "The exposition", "content": {"text/plain": {}}},
                        "401": _response(_ERRORS["401"], error),
                    },
                }
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _generating(summary: str, request: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    reply = _response("The reply, or with `stream` its events", {"type": "object"})
    reply["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": reply, **{status: _response(text, error) for status, text in _ERRORS.items()}},
    }


def _reading(summary: str, error: dict[str, Any], errors: set[str]) -> dict[str, Any]:
    failures = {status: _response(_ERRORS[status], error) for status in sorted(errors)}
    return {"summary": summary, "responses": {"200": _response("The answer", {"type": "object"}), **failures}}


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
