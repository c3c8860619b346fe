"""The refusal of an overloaded server and a deadline that has passed, in each dialect's shape."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tailrace.errors import DeadlineExceeded, RequestError, TooManyRequests
from tailrace.server.dialects.anthropic.errors import ERRORS as ANTHROPIC
from tailrace.server.dialects.llama_server.errors import ERRORS as LLAMA_SERVER
from tailrace.server.dialects.ollama.reply import ERRORS as OLLAMA
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.response_object import ResponseHead
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.tools import toolset
from tailrace.server.endpoint import GENERATION_ERRORS, OPENAI_ERRORS, ErrorFormat
from tailrace.server.events import Failure

FULL = TooManyRequests("The queue is full.", retry_after=7)
LATE = DeadlineExceeded("Too late.", code="queue_timeout")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [(FULL, 429, "rate_limit_error", "queue_full"), (LATE, 504, "timeout_error", "queue_timeout")],
)
def test_the_shapes(error: RequestError, status: int, kind: str, code: str) -> None:
    def body(errors: ErrorFormat) -> Any:
        response = errors.respond(error, "req_1")
        assert response.status_code == status
        return msgspec.json.decode(bytes(response.body))

    message = error.message
    assert body(OPENAI_ERRORS) == {"error": {"message": message, "type": kind, "param": None, "code": code}}
    assert body(ANTHROPIC) == {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    assert body(OLLAMA) == {"error": message}
    assert body(LLAMA_SERVER) == {"error": {"code": status, "message": message, "type": kind}}
    assert status in GENERATION_ERRORS


def test_retry_after_is_whole_seconds_from_one_on() -> None:
    assert FULL.headers == {"retry-after": "7"}
    assert TooManyRequests("Full.", retry_after=0).headers == {"retry-after": "1"}
    assert LATE.headers == {}


@pytest.mark.parametrize(
    ("error", "failed", "event"),
    [(FULL, "rate_limit_exceeded", "queue_full"), (LATE, "server_error", "queue_timeout")],
)
def test_a_responses_stream_ends_with_error_and_failed(error: RequestError, failed: str, event: str) -> None:
    tools = toolset(None, None)
    head = ResponseHead(ResponsesRequest(input="a"), tools, "m", stored=False)
    ends: list[dict[str, Any]] = []
    stream = ResponsesStream(head, tools, summary=False, encrypted=False, comments=False, ended=ends.append)
    stream.start()
    pieces = stream.encode(Failure(error))
    events = [msgspec.json.decode(piece.split(b"data: ", 1)[1]) for piece in pieces]
    assert [one["type"] for one in events] == ["error", "response.failed"]
    assert events[0]["code"] == event
    assert events[0]["error"]["type"] == error.type
    assert events[1]["response"]["error"] == {"code": failed, "message": error.message}
    assert ends[0]["status"] == "failed"
    assert stream.end() == b""
