"""Anthropic's errors: ``{"type": "error", "error": {"type", "message"}, "request_id"}``, the type by status."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, RequestError
from tailrace.server.endpoint import ErrorFormat
from tailrace.server.json_response import json_response

#: The response header with the request id.
REQUEST_ID = "request-id"

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class AnthropicErrorBody(msgspec.Struct, frozen=True):
    """The error's type and message."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of a failed request."""

    error: AnthropicErrorBody
    request_id: str


def error_object(error: RequestError, identity: str) -> AnthropicError:
    """The wire form of ``error`` for the request with this id.

    Claude Code shortens a conversation that has become too long when the message begins as Anthropic's does.
    """
    message = error.message
    if isinstance(error, ContextLengthExceeded):
        message = f"prompt is too long: {message}"
    return AnthropicError(AnthropicErrorBody(_TYPES.get(error.status, "invalid_request_error"), message), identity)


def error_response(error: RequestError, identity: str) -> Response:
    """The response that ``error`` is."""
    return json_response(error_object(error, identity), error.status, {REQUEST_ID: identity})


ERRORS = ErrorFormat(error_response, AnthropicError, limits="anthropic")
