"""What several servers share in PostgreSQL, when one of them dies, and when PostgreSQL does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from fault_figures import Record
from openai_wire import ask, chat
from postgres_server import PASSWORD, PostgresServer, postgres_server
from servers import ServerProcess, fake, wait_for
from shared_servers import ENDLESS, events, get, respond, server_on, text_of


def test_a_killed_servers_responses_fail_once_and_its_readers_learn_it(
    postgres: PostgresServer, record: Record
) -> None:
    address = postgres.database()
    with server_on(address) as other, server_on(address) as one:
        made = respond(one, ENDLESS, background=True)
        path = f"/v1/responses/{made['id']}"
        wait_for("its first events", lambda: b"delta" in first_events(other, path))
        os.kill(one.http, signal.SIGKILL)
        one.process.kill()
        begun = time.monotonic()
        streamed = events(ask(other.port, "GET", f"{path}?stream=true&starting_after=5").body)
        record("until a reader on another server has the end", time.monotonic() - begun, 12.0, "s")
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


def test_a_cancel_through_another_server_takes_less_than_a_second(postgres: PostgresServer, record: Record) -> None:
    address = postgres.database()
    with server_on(address) as one, server_on(address) as other:
        for _ in range(3):
            made = respond(one, ENDLESS, background=True)
            begun = time.monotonic()
            cancelled = ask(other.port, "POST", f"/v1/responses/{made['id']}/cancel").json()
            record("until another server has cancelled a response", time.monotonic() - begun, 1.0, "s")
            assert cancelled["status"] == "cancelled"


class Load:
    """Clients that ask a server all the time for what needs nothing stored; each failure is remembered."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._over = threading.Event()
        self.failures: list[object] = []
        self.done = 0
        asks = (self._chat, self._stream, self._unasked)
        self._threads = [threading.Thread(target=self._repeat, args=(each,), daemon=True) for each in asks]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, one: Callable[[], bool]) -> None:
        while not self._over.is_set():
            try:
                is_right = one()
            except Exception as error:
                self.failures.append(error)
            else:
                self.done += 1
                if not is_right:
                    self.failures.append(one.__name__)

    def _chat(self) -> bool:
        return ask(self._server.port, "POST", "/v1/chat/completions", chat("<say>x</say>")).status == 200

    def _stream(self) -> bool:
        body = {"input": "<say>streamed</say>", "stream": True, "store": False}
        return text_of(events(ask(self._server.port, "POST", "/v1/responses", body).body)) == "streamed"

    def _unasked(self) -> bool:
        """Its storing isn't asked for, and may fail."""
        return bool(respond(self._server, "x")["output"])


def test_without_postgresql_only_what_needs_it_fails_and_it_comes_back(record: Record) -> None:
    with postgres_server() as postgres, fake(step=0.001, responses_store=postgres.database()) as server:
        before = respond(server, "before")
        background = respond(server, "word " * 300, background=True)
        load = Load(server)
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
        wait_for("some load without PostgreSQL", lambda: load.done > 60)
        postgres.start()
        begun = time.monotonic()
        wait_for("the store", lambda: ask(server.port, "GET", f"/v1/responses/{before['id']}").status == 200)
        record("until stored responses are found again", time.monotonic() - begun, 5.0, "s")
        wait_for("the late end", lambda: get(server, background["id"])["status"] == "completed")
        load.stop()
        assert load.failures == []
        assert get(server, before["id"]) == before
        assert respond(server, "after", previous_response_id=before["id"])["store"] is True
        assert PASSWORD not in server.log
        for path in ("/stats", "/metrics", "/props", "/openapi.json"):
            assert PASSWORD.encode() not in ask(server.port, "GET", path).body
