"""The server's one key (``api_key``), and web pages of other origins (CORS)."""

from __future__ import annotations

import pytest

from openai_requests import CHAT, reply_to
from openai_wire import Connection, ask, chat, chat_stream
from servers import ServerProcess

KEY = {"authorization": "Bearer s3cret"}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer s3cret"},
        {"Authorization": "bearer  s3cret"},
        {"x-api-key": "s3cret"},
        {"authorization": "Basic abc", "x-api-key": "s3cret"},
        {"authorization": "Bearer wrong", "x-api-key": "s3cret"},
        {"authorization": "Bearer s3cret", "x-api-key": "wrong"},
    ],
)
def test_a_right_key(keyed: ServerProcess, headers: dict[str, str]) -> None:
    assert reply_to(keyed, headers=headers) == "ok"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "s3cret"},
        {"authorization": "Basic s3cret"},
        {"authorization": "Bearer s3cret2"},
        {"x-api-key": "s3cre"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("PUT", CHAT),
    ],
)
def test_a_wrong_key(keyed: ServerProcess, method: str, path: str, headers: dict[str, str]) -> None:
    reply = ask(keyed.port, method, path, chat("hi") if method != "GET" else None, headers)
    assert reply.status == 401
    assert reply.error()["type"] == "authentication_error"
    assert reply.error()["code"] == "invalid_api_key"
    assert "s3cret" not in reply.body.decode()


def test_an_unneeded_key_is_accepted(scripted: ServerProcess) -> None:
    assert reply_to(scripted, headers={"authorization": "Bearer sk-anything"}) == "ok"
    assert reply_to(scripted, headers={"x-api-key": "anything"}) == "ok"


def test_401_is_for_keys_alone(keyed: ServerProcess) -> None:
    """Relays disable a channel on 401."""
    assert ask(keyed.port, "POST", CHAT, b"broken", KEY).status == 400
    assert ask(keyed.port, "POST", "/nothing", b"", KEY).status == 404
    assert ask(keyed.port, "GET", CHAT, headers=KEY).status == 405


def test_a_large_body_with_a_wrong_key_is_answered(keyed: ServerProcess) -> None:
    """The client writes all of it before it reads."""
    with Connection(keyed.port) as connection:
        connection.request("POST", CHAT, b"x" * 8_000_000)
        assert connection.read().status == 401


# CORS


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nothing"])
def test_a_preflight_needs_no_key_and_gets_the_requested_headers(keyed: ServerProcess, path: str) -> None:
    asked = "authorization,content-type,x-api-key,anthropic-beta,x-stainless-os"
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    reply = ask(keyed.port, "OPTIONS", path, headers=headers)
    assert 200 <= reply.status < 300
    assert reply.header("access-control-allow-origin") == "https://app.example"
    assert reply.header("access-control-allow-headers") == asked
    assert "POST" in str(reply.header("access-control-allow-methods"))
    assert reply.header("vary") == "Origin"


def test_cors_on_streams_and_errors(scripted: ServerProcess, keyed: ServerProcess) -> None:
    origin = {"origin": "http://localhost:3000"}
    stream = ask(scripted.port, "POST", CHAT, chat("<say>ok</say>", stream=True), origin)
    assert chat_stream(stream).text == ["ok"]
    replies = [
        stream,
        ask(scripted.port, "POST", CHAT, b"{", origin),
        ask(scripted.port, "GET", "/nothing", headers=origin),
        ask(scripted.port, "GET", CHAT, headers=origin),
        ask(scripted.port, "GET", "/v1/models", headers=origin),
    ]
    assert [reply.header("access-control-allow-origin") for reply in replies] == ["http://localhost:3000"] * 5
    allowed = ask(keyed.port, "GET", "/v1/models", headers={"origin": "https://app.example"})
    assert (allowed.status, allowed.header("access-control-allow-origin")) == (401, "https://app.example")


def test_other_origins_are_not_let_in(keyed: ServerProcess) -> None:
    reply = ask(keyed.port, "OPTIONS", CHAT, headers={"origin": "https://evil.example"})
    assert reply.header("access-control-allow-origin") is None
    reply = ask(keyed.port, "GET", "/v1/models", headers={**KEY, "origin": "https://evil.example"})
    assert reply.header("access-control-allow-origin") is None
