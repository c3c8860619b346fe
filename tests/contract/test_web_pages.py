"""Web pages that reach for a server without a key: DNS rebinding, simple requests, preflights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, chat, chat_stream
from servers import ServerProcess, fake

CHAT = "/v1/chat/completions"
#: Every request that does something, and where its dialect has an error's message.
ACTIONS: dict[str, dict[str, Any]] = {
    CHAT: chat("<say>ok</say>"),
    "/v1/completions": {"prompt": "<say>ok</say>"},
    "/v1/responses": {"input": "<say>ok</say>"},
    "/v1/conversations": {},
    "/v1/messages": chat("<say>ok</say>", model="fake", max_tokens=10),
    "/api/chat": chat("<say>ok</say>", model="fake", stream=False),
    "/api/pull": {"model": "fake", "stream": False},
    "/completion": {"prompt": "<say>ok</say>"},
    "/tokenize": {"content": "ok"},
}
OWN = {"host": "localhost", "origin": "http://localhost:3000"}
REFUSED: dict[str, dict[str, str]] = {
    "rebound": {"host": "evil.example"},
    "rebound with its own origin": {"host": "evil.example:8000", "origin": "http://evil.example:8000"},
    "foreign page": {"origin": "https://evil.example"},
    "simple request": {"origin": "https://evil.example", "content-type": "text/plain"},
    "form": {"origin": "https://evil.example", "content-type": "application/x-www-form-urlencoded"},
    "sandboxed frame": {"origin": "null", "content-type": "text/plain"},
    "no origin": {"sec-fetch-site": "cross-site", "content-type": "text/plain"},
    "like localhost": {"origin": "http://localhost.evil.example:3000"},
}


def error(reply: Reply) -> tuple[str, str]:
    """The error's message and type, from any dialect's shape."""
    found = reply.json()["error"]
    return (found, "") if isinstance(found, str) else (found["message"], found["type"])


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("path", ACTIONS)
def test_a_foreign_pages_request_has_no_effect(scripted: ServerProcess, path: str, headers: dict[str, str]) -> None:
    reply = ask(scripted.port, "POST", path, ACTIONS[path], headers)
    assert reply.status == 403, reply.body
    message, kind = error(reply)
    assert "allowed_hosts" in message or "cors_origins" in message
    expected = {"/v1/messages": "permission_error", "/completion": "permission_error"}
    if not path.startswith("/api/"):
        assert kind == expected.get(path, "invalid_request_error")
    assert reply.header("access-control-allow-origin") is None


@pytest.mark.parametrize(
    "path", ["/v1/models", "/api/tags", "/metrics", "/slots", "/props", "/health", "/", "/nothing"]
)
def test_a_rebound_page_reads_nothing(scripted: ServerProcess, path: str) -> None:
    reply = ask(scripted.port, "GET", path, headers={"host": "evil.example"})
    assert reply.status == 403
    assert "fake" not in reply.body.decode()


def test_two_hosts_are_refused(scripted: ServerProcess) -> None:
    with Connection(scripted.port) as connection:
        connection.send(b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nhost: localhost\r\n\r\n")
        assert connection.read().status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        OWN,
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"},
        {"host": "203.0.113.9:8000", "origin": "http://203.0.113.9:8000"},
        {"origin": "vscode-webview://abc", "sec-fetch-site": "cross-site"},
        {"origin": "app://obsidian.md"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"host": "host.docker.internal:8000"},
    ],
)
@pytest.mark.parametrize("path", ACTIONS)
def test_clients_and_local_pages_are_answered(scripted: ServerProcess, path: str, headers: dict[str, str]) -> None:
    reply = ask(scripted.port, "POST", path, ACTIONS[path], headers)
    assert reply.status in (200, 400, 404), reply.body
    if path == CHAT:
        assert reply.status == 200


def test_a_local_page_reads_streams(scripted: ServerProcess) -> None:
    """NextChat runs in a browser, on a port of its own."""
    reply = ask(scripted.port, "POST", CHAT, chat("<say>ok</say>", stream=True), OWN)
    assert chat_stream(reply).text == ["ok"]
    assert reply.header("access-control-allow-origin") == "http://localhost:3000"
    assert reply.header("vary") == "Origin"


@pytest.mark.parametrize("private", [True, False])
def test_preflights(scripted: ServerProcess, private: bool) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    if private:
        asked["access-control-request-private-network"] = "true"
    own = ask(scripted.port, "OPTIONS", CHAT, headers={**OWN, **asked})
    assert own.status == 204
    assert own.header("access-control-allow-origin") == "http://localhost:3000"
    assert own.header("access-control-allow-headers") == "content-type"
    assert own.header("access-control-allow-private-network") == ("true" if private else None)
    foreign = ask(scripted.port, "OPTIONS", CHAT, headers={"origin": "https://evil.example", **asked})
    assert foreign.status == 204
    assert not [name for name, _ in foreign.headers if name.startswith("access-control-")]


@pytest.fixture(scope="module")
def named() -> Iterator[ServerProcess]:
    """A server with a name of its own and one foreign page."""
    with fake("--allowed-hosts", "llm.example.org", "--cors-origins", "https://chat.example.org") as server:
        yield server


def test_the_settings_name_hosts_and_origins(named: ServerProcess) -> None:
    def status(**headers: str) -> int:
        return ask(named.port, "POST", CHAT, chat("<say>ok</say>"), headers).status

    assert status(host="llm.example.org") == 200
    assert status(host="llm.example.org", origin="https://llm.example.org") == 200
    assert status(origin="https://chat.example.org") == 200
    assert status(host="other.example.org") == 403
    # With the setting the pages of this machine have to be named, too.
    assert status(origin="http://localhost:3000") == 403


def test_a_key_takes_the_place_of_the_checks(keyed: ServerProcess) -> None:
    """A page can't know the key. What its user gives the key to may call."""
    for headers in ({"host": "llm.example.org"}, {"origin": "https://elsewhere.example"}):
        with_key = {**headers, "authorization": "Bearer s3cret"}
        assert ask(keyed.port, "POST", CHAT, chat("<say>ok</say>"), with_key).status == 200
        assert ask(keyed.port, "POST", CHAT, chat("<say>ok</say>"), headers).status == 401


def test_a_server_that_is_open_to_a_network_says_so() -> None:
    with fake("--host", "0.0.0.0") as server:
        assert "listens beyond this machine without a key" in server.log
        assert ask(server.port, "GET", "/v1/models", headers={"host": "tailrace:8000"}).status == 200
        assert ask(server.port, "GET", "/v1/models", headers={"host": "evil.example"}).status == 403
    with fake("--host", "0.0.0.0", api_key="s3cret") as server:
        assert "without a key" not in server.log


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--manage-models", "--cors-origins", "*"), "manage_models"),
        (("--manage-models", "--allowed-hosts", "*"), "manage_models"),
        (("--cors-origins", "https://chat.example.org/"), "cors_origins"),
        (("--allowed-hosts", "https://llm.example.org"), "allowed_hosts"),
    ],
)
def test_what_would_open_a_server_or_means_nothing_ends_the_command(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    command = [str(Path(sys.executable).with_name("tailrace")), "serve", "--backend", "fake", "--port", "0", *arguments]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert ended.returncode == 2
    assert reason in ended.stderr
