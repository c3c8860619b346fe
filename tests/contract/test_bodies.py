"""Request bodies as clients send them: compressed, with a byte order mark, with half an emoji."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from openai_wire import Reply, ask, chat
from servers import ServerProcess

if sys.version_info >= (3, 14):
    from compression.zstd import compress as zstd_compress
else:
    from backports.zstd import compress as zstd_compress

CHAT = "/v1/chat/completions"

CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd_compress}

#: For each dialect's route: a body that makes the scripted backend say a text, and where the reply has it.
Make = Callable[[str], dict[str, Any]]
Find = Callable[[Any], str]
ROUTES: dict[str, tuple[Make, Find]] = {
    CHAT: (chat, lambda body: body["choices"][0]["message"]["content"]),
    "/v1/completions": (lambda text: {"prompt": text}, lambda body: body["choices"][0]["text"]),
    "/v1/responses": (lambda text: {"input": text}, lambda body: body["output"][0]["content"][0]["text"]),
    "/v1/messages": (lambda text: chat(text, model="fake", max_tokens=100), lambda body: body["content"][0]["text"]),
    "/api/chat": (lambda text: chat(text, model="fake", stream=False), lambda body: body["message"]["content"]),
    "/api/generate": (
        lambda text: {"prompt": text, "model": "fake", "stream": False},
        lambda body: body["response"],
    ),
}


def said(server: ServerProcess, path: str, body: bytes, headers: dict[str, str] | None = None) -> str:
    reply = ask(server.port, "POST", path, body, headers)
    assert reply.status == 200, reply.body
    return ROUTES[path][1](reply.json())


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_bodies_are_read(scripted: ServerProcess, path: str, coding: str) -> None:
    body = CODINGS[coding](json.dumps(ROUTES[path][0]("<say>ok</say>")).encode())
    assert said(scripted, path, body, {"content-encoding": coding}) == "ok"


def test_a_compressed_body_may_come_in_chunks(scripted: ServerProcess) -> None:
    body = zstd_compress(json.dumps(chat("<say>ok</say>")).encode())
    reply = ask(scripted.port, "POST", CHAT, body, {"content-encoding": "zstd"}, chunked=3)
    assert reply.json()["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
def test_the_size_limit_counts_the_decoded_body(scripted: ServerProcess, path: str, coding: str) -> None:
    """The server takes 1 MB."""
    fits = json.dumps(ROUTES[path][0]("<say>ok</say>") | {"padding": " " * 900_000}).encode()
    assert len(CODINGS[coding](fits)) < 10_000
    assert said(scripted, path, CODINGS[coding](fits), {"content-encoding": coding}) == "ok"
    bomb = CODINGS[coding](bytes(50_000_000))
    assert ask(scripted.port, "POST", path, bomb, {"content-encoding": coding}).status == 413


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip"])
def test_another_coding_is_a_415_that_names_those_that_are_read(scripted: ServerProcess, coding: str) -> None:
    reply = ask(scripted.port, "POST", CHAT, b"abc", {"content-encoding": coding})
    assert reply.status == 415
    assert reply.header("accept-encoding") == "gzip, deflate, zstd"
    assert reply.error()["code"] == "unsupported_content_encoding"
    assert ask(scripted.port, "POST", "/v1/messages", b"abc", {"content-encoding": coding}).json()["type"] == "error"
    assert list(ask(scripted.port, "POST", "/api/chat", b"abc", {"content-encoding": coding}).json()) == ["error"]


def test_a_body_that_is_not_gzip_is_refused(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", CHAT, chat("<say>ok</say>"), {"content-encoding": "gzip"})
    assert reply.status == 400
    assert reply.error()["code"] == "invalid_encoding"


# Text that was cut in the middle of a character

HALVES = {
    "the first half of a pair": (r"a\ud83d", "a\ufffd"),
    "the second half": (r"\udc00z", "\ufffdz"),
    "two first halves": (r"\ud83d\ud83dz", "\ufffd\ufffdz"),
    "halves in the wrong order": (r"\ude00\ud83d", "\ufffd\ufffd"),
    "upper case, beside a whole pair": (r"\uD83D\uDE00\uD83D", "\U0001f600\ufffd"),
    "a half before another escape": (r"\ud83d\u0041\ud83d\n", "\ufffdA\ufffd\n"),
    "an escaped backslash before the letters": (r"\\ud83d\ud83d", "\\ud83d\ufffd"),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("half", HALVES)
def test_half_an_emoji_is_read_as_a_replacement_character(scripted: ServerProcess, path: str, half: str) -> None:
    written, read = HALVES[half]
    body = json.dumps(ROUTES[path][0]("<say>@@</say>")).replace("@@", written).encode()
    # The scripted backend takes \n in what it is to say for no escape, so the text comes back as it was read.
    assert said(scripted, path, body) == read


def test_half_an_emoji_in_bytes(scripted: ServerProcess) -> None:
    """As it is in WTF-8, which Windows programs write."""
    body = json.dumps(chat("<say>@@</say>")).encode().replace(b"@@", b"a\xed\xa0\xbd\xed\xb0\x80")
    assert said(scripted, CHAT, body) == "a\ufffd\ufffd"


def test_other_bytes_that_are_no_utf_8_are_refused(scripted: ServerProcess) -> None:
    body = json.dumps(chat("<say>@@</say>")).encode().replace(b"@@", "ä".encode("latin-1"))
    reply = ask(scripted.port, "POST", CHAT, body)
    assert (reply.status, reply.error()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("path", ROUTES)
def test_a_byte_order_mark_is_skipped(scripted: ServerProcess, path: str) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(ROUTES[path][0]("<say>ok</say>")).encode()
    assert said(scripted, path, body) == "ok"


# What names a request

NAMED: list[tuple[str, str, object]] = [
    ("GET", "/health", None),
    ("GET", "/v1/models", None),
    ("OPTIONS", CHAT, None),
    ("GET", "/nothing", None),
    ("PUT", CHAT, None),
    ("POST", CHAT, {}),
    *((("POST", path, make("<say>ok</say>"))) for path, (make, _) in ROUTES.items()),
    *((("POST", path, make("<say>ok</say>") | {"stream": True})) for path, (make, _) in ROUTES.items()),
]


def identity(reply: Reply) -> str:
    found = reply.header("x-request-id")
    assert found
    return found


@pytest.mark.parametrize(("method", "path", "body"), NAMED)
def test_every_response_has_a_request_id(scripted: ServerProcess, method: str, path: str, body: object) -> None:
    one, other = (ask(scripted.port, method, path, body) for _ in range(2))
    assert identity(one) != identity(other)
    own = {"x-request-id": "proxy-7.c/1"}
    assert identity(ask(scripted.port, method, path, body, own)) == "proxy-7.c/1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "é"])
def test_a_request_id_that_could_do_harm_is_not_taken_over(scripted: ServerProcess, given: str) -> None:
    reply = ask(scripted.port, "GET", "/health", headers={"x-request-id": given})
    assert identity(reply).startswith("req_")


def test_anthropic_s_own_header_and_errors_have_the_same_id(scripted: ServerProcess) -> None:
    for body in (ROUTES["/v1/messages"][0]("<say>ok</say>"), {}):
        reply = ask(scripted.port, "POST", "/v1/messages", body)
        assert reply.header("request-id") == identity(reply)
        assert reply.json().get("request_id", identity(reply)) == identity(reply)
