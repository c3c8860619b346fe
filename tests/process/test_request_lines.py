"""A real server's log lines and metrics of requests, in every dialect, and of its processes' lives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from openai_wire import ask, chat
from servers import ServerProcess, fake, wait_for

SAY = "<say>okay</say>"
MESSAGES = [{"role": "user", "content": f"secret {SAY}"}]
#: A request in each dialect that makes a reply.
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "chat stream": ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
    "completions": ("/v1/completions", {"prompt": f"secret {SAY}"}),
    "responses": ("/v1/responses", {"input": f"secret {SAY}", "store": False}),
    "background": ("/v1/responses", {"input": f"secret {SAY}", "background": True}),
    "anthropic": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50, "model": "fake"}),
    "ollama chat": ("/api/chat", {"messages": MESSAGES, "model": "fake"}),
    "ollama generate": ("/api/generate", {"prompt": f"secret {SAY}", "model": "fake", "stream": False}),
    "llama-server": ("/completion", {"prompt": f"secret {SAY}"}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with fake(log_format="json") as running:
        yield running


def lines(server: ServerProcess, **fields: object) -> list[dict[str, Any]]:
    """The log's lines that have these fields. All lines have to be JSON."""
    found = [json.loads(line) for line in server.log.splitlines()]
    return [line for line in found if fields.items() <= line.items()]


def line_of(server: ServerProcess, identity: str) -> dict[str, Any]:
    """The only line of a request."""
    wait_for("the request's line", lambda: bool(lines(server, event="request", request_id=identity)))
    (line,) = lines(server, event="request", request_id=identity)
    return line


def metric(server: ServerProcess, series: str) -> float:
    text = ask(server.port, "GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rsplit(" ", 1)[1])


def head_of(identity: str, body: bytes) -> bytes:
    """The head of a chat request that closes its connection."""
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: localhost", f"x-request-id: {identity}", "connection: close")
    more = ("content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join((*lines, *more, "", "")).encode()


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_s_request_has_one_line(server: ServerProcess, name: str) -> None:
    route, body = DIALECTS[name]
    identity = f"line-{name.replace(' ', '-')}"
    answer = ask(server.port, "POST", route, body, {"x-request-id": identity})
    assert answer.status == 200
    assert answer.header("x-request-id") == identity
    line = line_of(server, identity)
    assert line["route"] == route.removeprefix("/v1")
    assert (line["level"], line["method"], line["status"], line["model"]) == ("info", "POST", 200, "fake")
    assert (line["finish"], line["client"], line["completion_tokens"]) == ("stop", "127.0.0.1", 5)
    assert line["prompt_tokens"] >= len(f"secret {SAY}")
    assert 0 <= line["queue"] <= line["ttft"] <= line["seconds"]
    assert "error" not in line


def test_no_text_of_a_request_is_logged(server: ServerProcess) -> None:
    route, body = DIALECTS["chat"]
    ask(server.port, "POST", route, body, {"x-request-id": "private", "authorization": "Bearer sk-1"})
    line_of(server, "private")
    assert "secret" not in server.log
    assert "sk-1" not in server.log


def test_prompts_are_logged_on_request() -> None:
    with fake(log_format="json", log_prompts="true") as server:
        ask(server.port, "POST", "/v1/chat/completions", chat(f"secret {SAY}"), {"x-request-id": "p"})
        assert "secret" in line_of(server, "p")["prompt"]


def test_without_the_access_log_there_are_no_lines() -> None:
    with fake(log_format="json", access_log="false") as server:
        ask(server.port, "POST", "/v1/chat/completions", chat(SAY))
        assert not lines(server, event="request")


def test_a_refused_request_has_its_error(server: ServerProcess) -> None:
    before = metric(server, 'tailrace:errors_total{code="invalid_request_error"}')
    ask(server.port, "POST", "/v1/chat/completions", {**chat(SAY), "max_tokens": "x"}, {"x-request-id": "refused"})
    line = line_of(server, "refused")
    assert (line["status"], line["error"]) == (400, "invalid_request_error")
    assert metric(server, 'tailrace:errors_total{code="invalid_request_error"}') == before + 1


def test_a_path_or_an_id_can_not_forge_a_line(server: ServerProcess) -> None:
    """Bytes that no HTTP library would send."""
    evil = b"%0A%7B%22event%22:%22forged%22%7D%1B%5B2J%E2%80%A8"
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(
            b"GET /v1/" + evil + b" HTTP/1.1\r\nhost: localhost\r\n"
            b'x-request-id: a" level="error\r\nuser-agent: \xe2\x80\xae\r\nconnection: close\r\n\r\n'
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    identity = re.search(rb"x-request-id: (\S+)", answer)
    assert identity is not None
    line = line_of(server, identity[1].decode())
    assert line["route"].startswith("/\n{")
    assert not lines(server, event="forged")
    assert "\x1b" not in server.log


def test_a_client_that_goes_away_has_a_line() -> None:
    with fake(step=0.02, log_format="json") as server:
        body = json.dumps(chat(f"<say>{'x' * 1000}</say>", stream=True)).encode()
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(head_of("gone", body) + body)
            received = b""
            while b"content" not in received.partition(b"\r\n\r\n")[2]:
                received += client.recv(4096)
        line = line_of(server, "gone")
        assert (line["status"], line["finish"]) == (200, "abort")
        assert metric(server, 'vllm:request_success_total{engine="0",model_name="fake",finished_reason="abort"}') == 1
        wait_for(
            "the cancel",
            lambda: metric(server, 'tailrace:engine_cancelled_total{engine="0",model_name="fake"}') == 1,
        )


def test_lives_of_processes_are_counted() -> None:
    """The counts survive both kinds of child."""
    with fake(step=0.05, log_format="json") as server:
        engine, http = (
            'tailrace:process_starts_total{process="engine 0"}',
            'tailrace:process_starts_total{process="http"}',
        )
        assert (metric(server, engine), metric(server, http)) == (1, 1)
        for victim in (server.engine, server.http):
            os.kill(victim, signal.SIGKILL)

        def counted() -> bool:
            with contextlib.suppress(OSError):
                return (metric(server, engine), metric(server, http)) == (2, 2)
            return False

        wait_for("both to be started again", counted)
        assert metric(server, 'tailrace:process_hangs_total{process="http"}') == 0


def test_an_engine_that_dies_under_a_stream_is_an_error_in_its_line() -> None:
    with fake(step=0.02, log_format="json") as server:
        body = json.dumps(chat(f"<say>{'x' * 1000}</say>", stream=True)).encode()
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(head_of("died", body) + body)
            received = b""
            # Before its first token another engine may take the request.
            while b'"content":"x' not in received:
                received += client.recv(4096)
            os.kill(server.engine, signal.SIGKILL)
            while piece := client.recv(65536):
                received += piece
        line = line_of(server, "died")
        assert (line["status"], line["error"], line["finish"]) == (200, "engine_died", "error")
        assert metric(server, 'tailrace:errors_total{code="engine_died"}') == 1


def test_a_crash_s_stacks_are_a_line_of_the_log() -> None:
    """Python writes them past the log, just before the process ends."""
    with fake(log_format="json") as server:
        os.kill(server.engine, signal.SIGSEGV)

        def written() -> str:
            return "\n".join(
                line["exception"] for line in lines(server, event="written to standard error", by="engine")
            )

        wait_for("the stacks", lambda: "Segmentation fault" in written() and "loop.py" in written())
        (line, *_) = lines(server, event="written to standard error")
        assert (line["process"], line["level"]) == ("supervisor", "warning")
