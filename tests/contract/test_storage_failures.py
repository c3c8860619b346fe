"""Stored objects when the file for them can't be used: a client that asked for one learns it, others get replies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openai_wire import ask
from servers import ServerProcess, fake


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with fake(responses_file="/dev/null/responses.sqlite") as started:
        yield started


def test_a_response_that_is_to_be_stored_is_refused_before_it_is_generated(server: ServerProcess) -> None:
    for fields in ({"store": True}, {"store": True, "stream": True}, {"background": True}):
        reply = ask(server.port, "POST", "/v1/responses", {"input": "<say>Hi</say>", **fields})
        assert reply.status == 503
        assert reply.error()["code"] == "storage_unavailable"
        assert reply.header("retry-after") == "5"


def test_a_response_whose_storing_was_not_asked_for_says_that_it_is_not_stored(server: ServerProcess) -> None:
    reply = ask(server.port, "POST", "/v1/responses", {"input": "<say>Hi</say>"})
    assert reply.status == 200
    response = reply.json()
    assert response["store"] is False
    assert response["output"][0]["content"][0]["text"] == "Hi"
    streamed = ask(server.port, "POST", "/v1/responses", {"input": "<say>Hi</say>", "stream": True})
    assert b'"store":false' in streamed.body
    assert b"response.completed" in streamed.body


def test_a_chat_completion_that_is_to_be_stored_and_is_not_is_an_error(server: ServerProcess) -> None:
    messages = [{"role": "user", "content": "<say>Hi</say>"}]
    reply = ask(server.port, "POST", "/v1/chat/completions", {"messages": messages, "store": True})
    assert (reply.status, reply.error()["code"]) == (503, "storage_unavailable")
    assert ask(server.port, "POST", "/v1/chat/completions", {"messages": messages}).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/conversations"),
        ("GET", "/v1/conversations/conv_1"),
        ("GET", "/v1/chat/completions/chatcmpl-1"),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages"),
    ],
)
def test_lookups_say_that_the_store_can_not_be_used(server: ServerProcess, method: str, path: str) -> None:
    reply = ask(server.port, method, path, {} if method == "POST" else None)
    assert (reply.status, reply.error()["code"]) == (503, "storage_unavailable")
