"""The relay of the clients' proofs loses what one-api loses: of a server that says the wrong things nothing is left."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from relay import LONGEST_LINE, Relay

DONE = b"data: [DONE]\n\n"


class Upstream(ThreadingHTTPServer):
    """Answers everything with the same status, type and body."""

    daemon_threads = True
    status = 200
    kind = "text/event-stream"
    body = b""
    asked: list[tuple[dict[str, str], bytes]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.server.asked.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.server.body), self.server.body))


@contextmanager
def upstream(body: bytes, status: int = 200, kind: str = "text/event-stream") -> Iterator[tuple[Upstream, Relay]]:
    server = Upstream(("127.0.0.1", 0), Handler)
    server.asked, server.body, server.status, server.kind = [], body, status, kind
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with Relay(server.server_address[1]) as relay:
            yield server, relay
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def through(relay: Relay, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    """What a client gets for a streamed request."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.port)
    try:
        connection.request("POST", path, b'{"stream": true}', {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def streamed(body: bytes) -> bytes:
    with upstream(body) as (_, relay):
        status, got = through(relay)
        assert status == 200
        return got


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def test_events_go_through_and_done_is_sent_once() -> None:
    assert streamed(event("a") + event("b") + DONE) == event("a") + event("b") + DONE


def test_a_missing_space_leaves_nothing() -> None:
    assert streamed(event("a").replace(b"data: ", b"data:") + DONE) == DONE


def test_comments_and_named_events_are_dropped() -> None:
    assert streamed(b": keep-alive\n\nevent: x\nid: 1\n" + event("a")) == event("a") + DONE


def test_a_line_that_is_too_long_ends_the_stream_without_a_word() -> None:
    fits = event("x" * (LONGEST_LINE - 100))
    assert streamed(fits + event("b")) == fits + event("b") + DONE
    assert streamed(event("a") + event("x" * LONGEST_LINE) + event("b")) == event("a") + DONE


def test_an_error_in_the_stream_is_dropped() -> None:
    assert streamed(event("a") + b'data: {"error": {"message": "m"}}\n\n') == event("a") + DONE


def test_usage_is_requested_and_the_last_one_counts() -> None:
    first, last = ({"choices": [], "usage": {"total_tokens": count}} for count in (1, 2))
    body = b"".join(b"data: " + json.dumps(said).encode() + b"\n\n" for said in (first, last))
    with upstream(body + DONE) as (server, relay):
        through(relay)
        assert relay.usages == [{"total_tokens": 2}]
    ((headers, asked),) = server.asked
    assert json.loads(asked)["stream_options"] == {"include_usage": True}
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers


def test_other_dialects_keep_their_event_lines_within_the_same_bounds() -> None:
    good = b'event: ping\ndata: {"type": "ping"}\n\n'
    with upstream(good + b"data: " + b"x" * LONGEST_LINE + b"\n\n") as (_, relay):
        assert through(relay, "/v1/messages") == (200, good)
    with upstream(b'{"a": 1}\n' + b"x" * LONGEST_LINE + b"\n", kind="application/x-ndjson") as (_, relay):
        assert through(relay, "/api/chat") == (200, b'{"a": 1}\n')


def test_what_closes_the_channel() -> None:
    for status, message, closes in ((400, "too long", False), (401, "wrong key", True), (400, "No Credit left", True)):
        error = json.dumps({"error": {"message": message, "type": "t", "param": None, "code": None}}).encode()
        with upstream(error, status, "application/json") as (_, relay):
            got, body = through(relay)
            assert got == status
            assert json.loads(body)["error"]["message"].startswith(message)
            assert relay.enabled is not closes
            assert (through(relay)[0] == 503) is closes
