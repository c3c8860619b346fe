"""Request targets that no route has, in every form of RFC 9112, section 3.2: each gets an answer, and no defect."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from servers import ServerProcess

TARGETS = [
    "*",
    "//",
    "///v1//",
    "/v1/v1",
    "x",
    "?",
    "?q=1",
    "#f",
    "/%",
    "/%00",
    "/%FF%FE",
    "/..",
    "/./x",
    "/{id}",
    "host:443",
    "http://host",
    "http://host?q=1",
    "http://host/nothing",
    "http://",
    "http://[::1",
    "ftp://host/x",
    "/" + "x" * 9000,
]


def answer(port: int, method: str, target: str) -> tuple[int, bytes]:
    """Status and body of the answer to one request with this very target."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "CONNECT", "TRACE", "PROPFIND"])
def test_a_target_without_a_route_is_refused_in_json(scripted: ServerProcess, method: str, target: str) -> None:
    status, body = answer(scripted.port, method, target)
    if (method, status) == ("GET", 200):  # The root, by another name.
        assert json.loads(body)["name"] == "tailrace"
        return
    assert 400 <= status < 500, (status, body)
    shown = json.loads(body)
    message = shown["error"] if isinstance(shown["error"], str) else shown["error"]["message"]
    assert message


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
def test_a_method_without_a_body_never_finds_a_defect(scripted: ServerProcess, method: str, target: str) -> None:
    status, _ = answer(scripted.port, method, target)
    assert status < 500
