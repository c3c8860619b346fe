"""Limits of connections that a client sees at once: early refusals, floods, and the number of connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from openai_wire import Connection, ask, chat, chat_stream, metric
from servers import ServerProcess, fake, wait_for

CHAT = "/v1/chat/completions"


def test_a_body_over_the_limit_is_refused_before_it_is_sent(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000000\r\n\r\n{")
        reply = connection.read()
        assert reply.status == 413
        assert reply.error()["code"] == "body_too_large"


def test_a_client_that_asks_first_is_refused_without_a_100(scripted: ServerProcess) -> None:
    """It may send the body or not: the connection can't be used again."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000000\r\n"
    with Connection(scripted.port) as connection:
        connection.send(head + b"expect: 100-continue\r\n\r\n")
        reply = connection.read()
        assert reply.status == 413
        assert reply.header("connection") == "close"
        assert connection.read_to_end() == b""


def test_a_body_in_tiny_chunks_is_refused(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.send(b"1\r\n \r\n" * 20_000)
        reply = connection.read()
        assert reply.status == 400
        assert "tiny" in reply.error()["message"]
        connection.read_to_end()


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "framing", [b"1;" + b"x" * 200_000, b"0\r\n" + b"x: y\r\n" * 40_000, b"0\r\nx: " + b"y" * 200_000]
)
def test_framing_without_end_is_refused(scripted: ServerProcess, framing: bytes) -> None:
    with Connection(scripted.port) as connection:
        connection.send(CHUNKED + framing)
        reply = connection.read()
        assert reply.status == 400
        assert reply.error()["code"] == "invalid_http"


def test_a_header_behind_the_body_has_no_effect(keyed: ServerProcess) -> None:
    with Connection(keyed.port) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" + CHUNKED)
        connection.send(b"2\r\n{}\r\n0\r\nauthorization: Bearer s3cret\r\n\r\n")
        assert connection.read().status == 200
        assert connection.read().status == 401


def test_two_thousand_pipelined_requests_are_all_answered(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2000)
        for _ in range(2000):
            assert connection.read().status == 200


def test_a_large_body_behind_a_stream_is_read_when_its_turn_comes(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, chat("<say>" + "a" * 2000 + "</say>", stream=True))
        connection.request("POST", CHAT, chat("<say>ok</say>", padding=" " * 700_000))
        connection.request("GET", "/health")
        stream = connection.read()
        stream.rest = b""
        assert chat_stream(stream).text == ["a" * 2000]
        assert connection.read().json()["choices"][0]["message"]["content"] == "ok"
        assert connection.read().status == 200


def test_a_client_that_goes_away_with_requests_behind_a_stream_cancels_the_stream(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", CHAT, chat("<say>" + "a" * 4000 + "</say>", stream=True))
        connection.read_head()
        connection.request("GET", "/health")
        wait_for("the stream to run", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
    wait_for("the stream to be cancelled", lambda: metric(slow.port, "vllm:num_requests_running") == 0, 20.0)


# The number of connections


@pytest.fixture(scope="module")
def few() -> Iterator[ServerProcess]:
    with fake("--max-connections", "20", step=0.02, header_seconds="600") as server:
        yield server


def test_idle_and_slow_connections_make_place_for_new_ones(few: ServerProcess) -> None:
    sockets = [socket.create_connection(("127.0.0.1", few.port)) for _ in range(60)]
    try:
        for sock in sockets:
            try:
                sock.sendall(b"GET /health HT")
            except OSError:
                pass  # Its place has been taken.
        for _ in range(3):
            assert ask(few.port, "GET", "/health").status == 200
            assert ask(few.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
    finally:
        for sock in sockets:
            sock.close()


def test_beyond_the_limit_requests_are_refused_and_health_is_not(few: ServerProcess) -> None:
    body = json.dumps(chat("<say>" + "a" * 3000 + "</say>", stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    running = [Connection(few.port) for _ in range(18)]  # What one address may have.
    try:
        for connection in running:
            connection.send(head + body)
            assert connection.read_head().status == 200
        assert ask(few.port, "GET", "/health").status == 200
        refused = ask(few.port, "POST", CHAT, chat("<say>ok</say>"))
        assert refused.status == 429
        assert refused.error()["code"] == "too_many_connections"
        assert refused.header("retry-after") == "2"
        assert refused.header("connection") == "close"
        anthropic = ask(few.port, "POST", "/v1/messages", {})
        assert anthropic.status == 429
        assert anthropic.json()["error"]["type"] == "rate_limit_error"
        assert "connections are at their limit" in few.log
    finally:
        for connection in running:
            connection.close()
    wait_for("places to be free", lambda: ask(few.port, "POST", CHAT, chat("<say>ok</say>")).status == 200)
