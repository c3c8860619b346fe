"""JSON responses, errors included, in OpenAI's shape."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tailrace.errors import ContextLengthExceeded, RequestError


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error: message and type are non-empty, param and code are strings or null."""

    message: str
    type: str
    param: str | None
    code: str | None


class ContextErrorBody(ErrorBody, frozen=True):
    """The same with llama-server's numbers of a prompt that doesn't fit."""

    n_prompt_tokens: int
    n_ctx: int


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """What a failed request's body is."""

    error: ErrorBody


def error_envelope(error: RequestError) -> ErrorEnvelope:
    """The wire form of ``error``."""
    if isinstance(error, ContextLengthExceeded) and error.prompt_tokens is not None and error.context is not None:
        return ErrorEnvelope(
            ContextErrorBody(error.message, error.type, error.param, error.code, error.prompt_tokens, error.context)
        )
    return ErrorEnvelope(ErrorBody(error.message, error.type, error.param, error.code))


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``body`` (anything that msgspec encodes) as JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def error_response(error: RequestError, identity: str) -> Response:
    """The response that ``error`` is. Its body doesn't name the request; the head does."""
    return json_response(error_envelope(error), error.status)
