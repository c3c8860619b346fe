"""What several servers share in PostgreSQL, when one of them dies, and when PostgreSQL does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

from openai_wire import ask, chat
from postgres_server import PASSWORD, PostgresServer, postgres_server
from servers import ServerProcess, fake, wait_for
from shared_servers import ENDLESS, events, get, respond, running, server_on, text_of


def test_a_killed_servers_responses_fail_once_and_its_readers_learn_it(postgres: PostgresServer) -> None:
    address = postgres.database()
    with server_on(address) as other, server_on(address) as one:
        made = respond(one, ENDLESS, background=True)
        path = f"/v1/responses/{made['id']}"
        wait_for("its first events", lambda: b"delta" in first_events(other, path))
        os.kill(one.http, signal.SIGKILL)
        one.process.kill()
        begun = time.monotonic()
        streamed = events(ask(other.port, "GET", f"{path}?stream=true&starting_after=5").body)
        assert time.monotonic() - begun < 30
        assert streamed[0]["sequence_number"] == 6
        assert streamed[-1]["type"] == "response.failed"
        error = streamed[-1]["response"]["error"]
        assert error == {"code": "server_error", "message": "The server was stopped before the response was done."}
        failed = get(other, made["id"])
        assert (failed["status"], failed["error"]) == ("failed", error)
        far = events(ask(other.port, "GET", f"{path}?stream=true&starting_after=90000").body)
        assert [event["sequence_number"] for event in far] == [90001], "a client always gets the end"


def first_events(server: ServerProcess, path: str) -> bytes:
    """What a reader that comes now gets at once."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"GET {path}?stream=true HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        connection.settimeout(0.3)
        body = b""
        with contextlib.suppress(TimeoutError):
            while piece := connection.recv(65536):
                body += piece
        return body


def test_without_postgresql_only_what_needs_it_fails_and_it_comes_back() -> None:
    with postgres_server() as postgres, fake(step=0.001, responses_store=postgres.database()) as server:
        before = respond(server, "before")
        background = respond(server, "word " * 300, background=True)
        postgres.stop()
        for fields in ({"store": True}, {"store": True, "stream": True}, {"background": True}):
            reply = ask(server.port, "POST", "/v1/responses", {"input": "<say>x</say>", **fields})
            assert (reply.status, reply.error()["code"]) == (503, "storage_unavailable")
            assert reply.header("retry-after") == "5"
        assert ask(server.port, "GET", f"/v1/responses/{before['id']}").status == 503
        assert respond(server, "x")["store"] is False
        streamed = events(
            ask(server.port, "POST", "/v1/responses", {"input": "<say>streamed</say>", "stream": True}).body
        )
        assert text_of(streamed) == "streamed"
        assert streamed[-1]["response"]["store"] is False
        assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>x</say>")).status == 200
        stored = ask(server.port, "POST", "/v1/chat/completions", chat("<say>x</say>", store=True))
        assert (stored.status, stored.error()["code"]) == (503, "storage_unavailable")
        wait_for("the end of the response", lambda: running(server) == 0)
        postgres.start()
        wait_for("the store", lambda: ask(server.port, "GET", f"/v1/responses/{before['id']}").status == 200)
        wait_for("the late end", lambda: get(server, background["id"])["status"] == "completed")
        assert get(server, before["id"]) == before
        assert respond(server, "after", previous_response_id=before["id"])["store"] is True
        assert PASSWORD not in server.log
        for path in ("/stats", "/metrics", "/props", "/openapi.json"):
            assert PASSWORD.encode() not in ask(server.port, "GET", path).body
