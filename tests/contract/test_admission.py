"""A full queue and a passed deadline, as clients of each dialect see them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, chat, chat_stream, failed_stream
from servers import ServerProcess, fake, wait_for

ENDLESS = "<say>" + "x" * 7000 + "</say>"
MESSAGES = [{"role": "user", "content": "<say>ok</say>"}]
#: A request of each kind that needs the engine, by its path.
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/chat/completions/input_tokens": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "<say>ok</say>"},
    "/v1/responses": {"input": "<say>ok</say>"},
    "/v1/responses/input_tokens": {"input": "<say>ok</say>"},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
    "/v1/messages": {"model": "fake", "messages": MESSAGES, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "fake", "messages": MESSAGES},
    "/tokenize": {"prompt": "a"},
    "/completion": {"prompt": "<say>ok</say>"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/embedding": {"content": "a"},
    "/api/chat": {"model": "fake", "messages": MESSAGES},
    "/api/generate": {"model": "fake", "prompt": "<say>ok</say>"},
    "/api/embed": {"model": "fake", "input": "a"},
}
STREAMED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/completion",
    "/api/chat",
    "/api/generate",
)


@pytest.fixture(scope="module")
def small() -> Iterator[ServerProcess]:
    """One request runs and two may wait; a step takes 20 ms."""
    settings = ("--parallel", "1", "--queue-requests", "2", "--keepalive-seconds", "0.3")
    with fake(*settings, step=0.02) as server:
        yield server


@pytest.fixture
def full(small: ServerProcess) -> Iterator[ServerProcess]:
    """The same with a full queue."""
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(Connection(small.port))
            connection.request("POST", "/v1/chat/completions", chat(ENDLESS, stream=True))
            assert connection.read_head().status == 200
        yield small
    wait_for("the queue to be empty", lambda: ask(small.port, "POST", "/tokenize", {"prompt": "a"}).status == 200)


def check_refusal(path: str, reply: Reply) -> None:
    assert reply.status == 429, reply.body
    assert 1 <= int(reply.header("retry-after") or "") <= 60
    assert reply.header("content-type") == "application/json"
    body = reply.json()
    if path.startswith("/api/"):
        assert "queue is full" in body["error"]
        return
    assert body["error"]["type"] == "rate_limit_error"
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
    elif path in ("/completion", "/infill", "/embedding"):
        assert body["error"]["code"] == 429
    else:
        assert body["error"]["code"] == "queue_full"


@pytest.mark.parametrize("path", REQUESTS)
def test_a_full_queue_refuses_every_kind_of_request(full: ServerProcess, path: str) -> None:
    check_refusal(path, ask(full.port, "POST", path, REQUESTS[path]))
    if path in STREAMED:
        check_refusal(path, ask(full.port, "POST", path, {**REQUESTS[path], "stream": True}))
    if path == "/v1/responses":
        check_refusal(path, ask(full.port, "POST", path, {**REQUESTS[path], "background": True}))


def test_what_needs_no_engine_is_answered(full: ServerProcess) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/props", "/api/tags"):
        assert ask(full.port, "GET", path).status == 200
    reply = ask(full.port, "POST", "/v1/chat/completions", {"messages": "none"})
    assert reply.status in (400, 429)


def test_another_sender_still_gets_in(full: ServerProcess) -> None:
    other = http.client.HTTPConnection("127.0.0.1", full.port, timeout=60, source_address=("127.0.0.2", 0))
    other.request("POST", "/tokenize", json.dumps({"prompt": "a"}))
    assert other.getresponse().status == 200
    other.close()


def test_each_reply_of_a_request_counts(small: ServerProcess) -> None:
    with Connection(small.port) as connection:
        connection.request("POST", "/v1/chat/completions", chat(ENDLESS, stream=True, n=2))
        assert connection.read_head().status == 200
        check_refusal("", ask(small.port, "POST", "/v1/chat/completions", chat("<say>a</say>", n=2)))
        check_refusal("", ask(small.port, "POST", "/v1/completions", {"prompt": ["a", "b"]}))
        with Connection(small.port) as third:
            third.request("POST", "/v1/chat/completions", chat("<say>a</say>", stream=True))
            assert third.read_head().status == 200
    wait_for("the place to be free", lambda: ask(small.port, "POST", "/tokenize", {"prompt": "a"}).status == 200)


# Deadlines


@pytest.fixture
def busy(small: ServerProcess) -> Iterator[ServerProcess]:
    """The only slot is taken."""
    with Connection(small.port) as connection:
        connection.request("POST", "/v1/chat/completions", chat(ENDLESS, stream=True))
        assert connection.read_head().status == 200
        connection.chunk(), connection.chunk()
        yield small


def timed(path: str, port: int, body: dict[str, Any], **headers: str) -> Reply:
    return ask(port, "POST", path, body, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "timeout_error"),
        ("/v1/completions", "timeout_error"),
        ("/v1/responses", "timeout_error"),
        ("/v1/messages", "timeout_error"),
        ("/completion", "timeout_error"),
        ("/api/chat", None),
    ],
)
def test_a_whole_reply_that_waits_too_long_is_a_504(busy: ServerProcess, path: str, kind: str | None) -> None:
    reply = timed(path, busy.port, {**REQUESTS[path], "stream": False}, x_queue_timeout="0.2")
    assert reply.status == 504, reply.body
    error = reply.json()["error"]
    if kind is None:
        assert "x-queue-timeout" in error
    else:
        assert error["type"] == kind


def test_a_stream_that_waits_too_long_ends_with_an_error(busy: ServerProcess) -> None:
    body = chat("<say>ok</say>", stream=True)
    reply = timed("/v1/chat/completions", busy.port, body, x_first_token_timeout="0.2")
    assert reply.status == 200
    _, error = failed_stream(reply.chunks)
    assert (error["type"], error["code"]) == ("timeout_error", "first_token_timeout")


def test_a_stream_that_takes_too_long_ends_with_an_error_in_each_dialect(small: ServerProcess) -> None:
    long: dict[str, dict[str, Any]] = {
        "/v1/messages": {"model": "fake", "messages": [{"role": "user", "content": ENDLESS}], "max_tokens": 9000},
        "/v1/responses": {"input": ENDLESS},
        "/completion": {"prompt": ENDLESS},
        "/api/chat": {"model": "fake", "messages": [{"role": "user", "content": ENDLESS}]},
    }
    last = {}
    for path, body in long.items():
        reply = timed(path, small.port, {**body, "stream": True}, x_request_timeout="0.3")
        assert reply.status == 200
        last[path] = json.loads(reply.body.strip().splitlines()[-1].removeprefix(b"data: "))
    assert last["/v1/messages"]["error"]["type"] == "timeout_error"
    assert last["/v1/responses"]["type"] == "response.failed"
    assert last["/completion"]["error"]["code"] == 504
    assert "x-request-timeout" in last["/api/chat"]["error"]


def test_a_header_that_is_no_time_is_refused(small: ServerProcess) -> None:
    reply = timed("/v1/chat/completions", small.port, chat("<say>ok</say>"), x_request_timeout="soon")
    assert reply.status == 400
    assert reply.error()["param"] == "x-request-timeout"
    whole = timed("/v1/chat/completions", small.port, chat("<say>ok</say>", stream=True), x_request_timeout="30")
    assert chat_stream(whole).text == ["ok"]
