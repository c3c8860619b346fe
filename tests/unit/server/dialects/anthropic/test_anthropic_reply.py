"""Anthropic's message, where the wire's own tests can't lead."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    RequestError,
    TooManyRequests,
    Unauthorized,
)
from tailrace.server.collected_reply import CollectedChoice, CollectedReply, ToolCall
from tailrace.server.dialects.anthropic.errors import error_response
from tailrace.server.dialects.anthropic.reply import MessageHead, ending_object, message_object
from tailrace.server.events import Usage


@pytest.mark.parametrize(("arguments", "given"), [('{"a": 1}', {"a": 1}), ('{"a": "b', {}), ("", {})])
def test_a_call_that_was_cut_has_no_arguments(arguments: str, given: object) -> None:
    reply = CollectedChoice(tool_calls=[ToolCall("call_1", "f", arguments)], finish_reason="length")
    message = message_object(MessageHead("m"), CollectedReply([reply], Usage(3, 2, 1)), hides_reasoning=False)
    assert message["content"] == [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": given}]
    assert message["stop_reason"] == "max_tokens"


def test_a_stop_string_is_no_reason_where_calls_are() -> None:
    assert ending_object("tool_calls", "x") == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest, 400, "invalid_request_error"),
        (ContextLengthExceeded, 400, "invalid_request_error"),
        (Unauthorized, 401, "authentication_error"),
        (ModelNotFound, 404, "not_found_error"),
        (MethodNotAllowed, 405, "invalid_request_error"),
        (BodyTooLarge, 413, "request_too_large"),
        (GenerationFailed, 500, "api_error"),
        (TooManyRequests, 429, "rate_limit_error"),
        (EngineUnavailable, 503, "overloaded_error"),
        (DeadlineExceeded, 504, "timeout_error"),
    ],
)
def test_each_status_has_its_type(error: type[RequestError], status: int, kind: str) -> None:
    response = error_response(error("why"), "req_1")
    body = msgspec.json.decode(bytes(response.body))
    assert response.status_code == status
    assert body["error"]["type"] == kind
    assert body["error"]["message"].endswith("why")
    assert body["request_id"] == response.headers["request-id"] == "req_1"
    assert ("retry-after" in error("why").headers) == (status in (429, 503))
