"""Below the dialects: framing, paths, methods, and clients that break the rules."""

from __future__ import annotations

import json
import re

import pytest

from openai_requests import CHAT, reply_to
from openai_wire import Connection, ask, chat, chat_stream
from servers import ServerProcess

KEY = {"authorization": "Bearer s3cret"}


# Bodies


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunked_request_bodies(scripted: ServerProcess, size: int) -> None:
    assert reply_to(scripted, chunked=size) == "ok"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "text/plain"},
        {"Content-Type": "Application/JSON;charset=UTF-8"},
        {"accept": "text/html"},
        {"accept": ""},
        {"accept": "application/json", "accept-encoding": "gzip, br"},
        {"expect": "100-continue"},
        {"x-stainless-lang": "js", "anthropic-version": "2023-06-01"},
    ],
)
def test_any_accept_and_content_type(scripted: ServerProcess, headers: dict[str, str]) -> None:
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, chat("<say>ok</say>"), headers)
        reply = connection.read_head() if "expect" in headers else connection.read()
        if reply.status == 100:
            reply = connection.read()
        assert reply.status == 200
        assert reply.json()["choices"][0]["message"]["content"] == "ok"


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/v1/v1/chat/completions",
        "//v1//chat///completions//",
        "/v1/chat/completions/",
        "/v1/chat/completions?beta=true",
        "/v1/chat%2Fcompletions",
        "http://127.0.0.1/v1/chat/completions",
    ],
)
def test_paths_are_tolerated_and_never_redirected(scripted: ServerProcess, path: str) -> None:
    assert reply_to(scripted, path=path) == "ok"


@pytest.mark.parametrize("path", ["/completions", "/v1/completions", "/v1//completions/", "/v1/v1/completions"])
def test_paths_of_completions(scripted: ServerProcess, path: str) -> None:
    reply = ask(scripted.port, "POST", path, {"prompt": "<say>ok</say>"})
    assert reply.json()["choices"][0]["text"] == "ok"


@pytest.mark.parametrize("path", ["/models", "/v1/models", "/v1/models/", "/v1/v1/models"])
def test_models(scripted: ServerProcess, path: str) -> None:
    body = ask(scripted.port, "GET", path).json()
    (model,) = body["data"]
    assert set(body) == {"object", "data", "models"}
    assert body["object"] == "list"
    assert set(model) == {"id", "object", "created", "owned_by", "max_model_len", "context_length", "meta", "status"}
    assert (model["id"], model["object"]) == ("fake", "model")
    assert type(model["created"]) is int
    assert ask(scripted.port, "GET", f"{path.rstrip('/')}/fake").json() == model


def test_a_model_that_is_not_served(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "GET", "/v1/models/org%2Fother")
    assert reply.status == 404
    assert reply.error()["code"] == "model_not_found"
    assert "org/other" in reply.error()["message"]


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/v1", "/v1/health"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_signs_of_life(keyed: ServerProcess, method: str, path: str) -> None:
    """Without a key, and so without telling anything but that it lives."""
    reply = ask(keyed.port, method, path)
    assert reply.status == 200
    if method == "GET":
        assert reply.json()["status"] == "ok"
        assert "fake" not in reply.body.decode()


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/moderations", "/v2/chat/completions", "/v1/chat", "/%ff%fe", "/..%2f"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_route(scripted: ServerProcess, method: str, path: str) -> None:
    reply = ask(scripted.port, method, path, {} if method == "POST" else None)
    assert reply.status == 404
    assert reply.error()["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, {"POST"}),
        ("HEAD", CHAT, {"POST"}),
        ("PUT", CHAT, {"POST"}),
        ("DELETE", "/v1/models/fake", {"GET", "HEAD"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("PATCH", "/v1/completions", {"POST"}),
    ],
)
def test_a_wrong_method(scripted: ServerProcess, method: str, path: str, allowed: set[str]) -> None:
    reply = ask(scripted.port, method, path)
    assert reply.status == 405
    allow = reply.header("allow")
    assert allow is not None
    assert set(allow.split(", ")) == allowed
    if method != "HEAD":
        assert reply.error()["code"] == "method_not_allowed"


def test_the_openapi_document_and_the_metrics_are_served(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "GET", "/openapi.json").json()["openapi"].startswith("3.1")
    metrics = ask(scripted.port, "GET", "/metrics")
    assert metrics.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"


# One connection, several requests


def test_a_connection_stays_open_after_well_framed_requests(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        for _ in range(2):
            connection.request("POST", CHAT, b"{broken")
            assert connection.read().status == 400
            connection.request("GET", "/nothing")
            assert connection.read().status == 404
            connection.request("HEAD", "/health")
            assert connection.read(head_only=True).status == 200
            connection.request("OPTIONS", CHAT)
            assert connection.read().status == 204
            connection.request("POST", CHAT, chat("<say>ok</say>", stream=True))
            assert chat_stream(connection.read()).text == ["ok"]
            connection.request("POST", CHAT, b"x" * 1_500_000)
            assert connection.read().status == 413


def test_pipelined_requests_are_answered_in_order(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        for text in ("a", "b", "c"):
            connection.request("POST", CHAT, chat(f"<say>{text}</say>"))
        texts = [connection.read().json()["choices"][0]["message"]["content"] for _ in range(3)]
        assert texts == ["a", "b", "c"]


def test_a_pipelined_request_waits_for_a_streams_end(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, chat("<say>" + "a" * 500 + "</say>", stream=True))
        connection.request("GET", "/v1/models")
        stream = connection.read()
        stream.rest = b""
        assert chat_stream(stream).text == ["a" * 500]
        assert connection.read().json()["data"][0]["id"] == "fake"


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_an_upgrade_offer_is_declined_and_the_connection_stays_open(scripted: ServerProcess, upgrade: str) -> None:
    """Java's HttpClient offers h2c with its first request, and sends the next on the same connection."""
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": upgrade, "http2-settings": "AAEAAEAAAAIAAAAB"}
    with Connection(scripted.port) as connection:
        for _ in range(3):
            connection.request("POST", CHAT, chat("<say>ok</say>"), headers)
            assert connection.read().json()["choices"][0]["message"]["content"] == "ok"
        connection.request("GET", "/v1/models", headers=headers)
        assert connection.read().status == 200
        connection.request("POST", CHAT, chat("<say>ok</say>", stream=True))
        assert chat_stream(connection.read()).text == ["ok"]


def test_two_requests_in_one_write_of_which_the_first_offers_to_upgrade(scripted: ServerProcess) -> None:
    one = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
    two = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with Connection(scripted.port) as connection:
        connection.send(one + two)
        assert connection.read().json()["object"] == "list"
        assert connection.read().json()["status"] == "ok"


def test_an_offer_to_upgrade_with_a_chunked_body_in_the_same_write(scripted: ServerProcess) -> None:
    body = json.dumps(chat("<say>ok</say>")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: close, Upgrade\r\n"
    with Connection(scripted.port) as connection:
        connection.send(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert connection.read().json()["choices"][0]["message"]["content"] == "ok"
        connection.read_to_end()


def test_http_1_0_is_closed_after_the_reply(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b'"object":"list"' in connection.read_to_end()


STREAMS = {
    CHAT: chat("<say>one two</say>", stream=True),
    "/v1/completions": {"prompt": "<say>one two</say>", "stream": True},
    "/v1/responses": {"input": "<say>one two</say>", "stream": True},
    "/v1/messages": chat("<say>one two</say>", stream=True, model="fake", max_tokens=100),
    "/api/chat": chat("<say>one two</say>", model="fake"),
    "/api/generate": {"prompt": "<say>one two</say>", "model": "fake"},
}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("extra", ["", "connection: keep-alive\r\n"])
def test_a_stream_to_http_1_0_is_not_chunked_and_ends_with_the_connection(
    scripted: ServerProcess, path: str, extra: str
) -> None:
    """nginx's proxy speaks it to its backends unless it is told otherwise."""
    body = json.dumps(STREAMS[path]).encode()
    head = f"POST {path} HTTP/1.0\r\nhost: localhost\r\n{extra}content-length: {len(body)}\r\n\r\n".encode()
    with Connection(scripted.port) as connection:
        connection.send(head + body)
        answer, _, sent = connection.read_to_end().partition(b"\r\n\r\n")
    assert b"HTTP/1.1 200" in answer
    assert b"transfer-encoding" not in answer.lower()
    assert b"content-length" not in answer.lower()
    assert b"connection: close" in answer.lower()
    with Connection(scripted.port) as connection:
        connection.request("POST", path, body)
        chunked = connection.read().body

    def same(stream: bytes) -> bytes:
        """What doesn't differ from one request to the next: ids and times do."""
        return re.sub(rb"[a-z]+[-_][0-9a-f]{8,}|[0-9][0-9T:.Z-]+", b"", stream)

    assert same(sent) == same(chunked)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("OPTIONS * HTTP/1.1", 204),
        ("GET * HTTP/1.1", 404),
        ("POST * HTTP/1.1", 404),
        ("GET http://127.0.0.1 HTTP/1.1", 200),
        ("GET http://127.0.0.1?a=b HTTP/1.1", 200),
        ("GET http://127.0.0.1/v1/models HTTP/1.1", 200),
        ("OPTIONS http://127.0.0.1 HTTP/1.1", 204),
    ],
)
def test_targets_without_a_path(scripted: ServerProcess, head: str, status: int) -> None:
    with Connection(scripted.port) as connection:
        connection.send(f"{head}\r\nhost: localhost\r\n\r\n".encode())
        assert connection.read().status == status


# Requests that aren't HTTP

LONG = b"a" * 200_000


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"BREW /coffee HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : a\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\x00b\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /" + LONG + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + LONG + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + LONG,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 40_000 + b"\r\n",
    ],
)
def test_what_is_no_http_gets_a_4xx_and_a_closed_connection(scripted: ServerProcess, data: bytes) -> None:
    with Connection(scripted.port) as connection:
        connection.send(data)
        reply = connection.read()
        assert 400 <= reply.status < 500
        assert reply.error()["type"] == "invalid_request_error"
        connection.read_to_end()


def test_headers_may_be_long_but_not_without_end(scripted: ServerProcess) -> None:
    assert reply_to(scripted, headers={"cookie": "c" * 30_000}) == "ok"
    with Connection(scripted.port) as connection:
        connection.send(b"GET / HTTP/1.1\r\nx: " + LONG)
        assert connection.read().status == 431


def test_rubbish_behind_a_request_never_gets_into_its_reply(scripted: ServerProcess) -> None:
    """A Content-Length that is too small: the rest of the body can't be a request."""
    body = json.dumps(chat("<say>" + "a" * 3000 + "</say>", stream=True)).encode()
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, body + b"and more", {"content-length": str(len(body))})
        everything = connection.read_to_end()
    assert everything.count(b"HTTP/1.1") <= 1
    assert ask(scripted.port, "GET", "/health").status == 200
