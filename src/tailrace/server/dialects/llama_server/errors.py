"""llama-server's errors: ``{"error": {"code": status, "message", "type"}}``, and ``param`` where a field is wrong."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, RequestError
from tailrace.server.endpoint import ErrorFormat
from tailrace.server.json_response import json_response

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    502: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


CONTEXT_EXCEEDED = "exceed_context_size_error"


class LlamaErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The error's code, message and type."""

    code: int  #: the status
    message: str
    type: str
    param: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class LlamaError(msgspec.Struct, frozen=True):
    """The body of a failed request, and the last event of a failed stream."""

    error: LlamaErrorBody


def error_object(error: RequestError) -> LlamaError:
    """The wire form of ``error``."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    message, tokens, context = error.message, None, None
    if isinstance(error, ContextLengthExceeded):
        kind = CONTEXT_EXCEEDED
        # Clients look for llama-server's words.
        message = f"The request exceeds the available context size. {message}"
        tokens, context = error.prompt_tokens, error.context
    return LlamaError(LlamaErrorBody(error.status, message, kind, error.param, tokens, context))


def error_response(error: RequestError, identity: str) -> Response:
    """The response that ``error`` is. Its body doesn't name the request; the head does."""
    return json_response(error_object(error), error.status)


ERRORS = ErrorFormat(error_response, LlamaError)
