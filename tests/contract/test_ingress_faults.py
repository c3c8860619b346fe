"""Replicas that are lost, refuse or misbehave: what clients get, and what is sent twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from ingress_process import IngressProcess, ingress
from openai_wire import Connection, ask, chat
from scripted_replica import Answer, Received, ScriptedReplica, Wire
from servers import wait_for
from tailrace.cluster.ingress.orders import RemoveReplica
from tailrace.cluster_protocol.forwarding import BEGUN

CHAT = "/v1/chat/completions"
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b'data: {"id":"chatcmpl-1","created":5,"model":"scripted","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b'HTTP/1.1 503 Service Unavailable\r\ncontent-length: 28\r\nretry-after: 2\r\n\r\n{"error":{"message":"busy"}}'


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def answers(data: bytes) -> Answer:
    return lambda request, wire: wire.send(data)


def breaks(*pieces: bytes, hold: threading.Event | None = None) -> Answer:
    """Write the pieces, then end the connection with a reset."""

    def answer(request: Received, wire: Wire) -> None:
        for piece in pieces:
            wire.send(piece)
        if hold is not None:
            hold.wait(60)
        wire.reset()

    return answer


@pytest.fixture(scope="module")
def patient() -> Iterator[IngressProcess]:
    with ingress([]) as process:
        yield process


@pytest.fixture(scope="module")
def lively() -> Iterator[IngressProcess]:
    """An ingress whose streams show a sign of life after 0.2 s."""
    with ingress([], keepalive_seconds=0.2) as process:
        yield process


_numbers = count(1000)


@contextmanager
def behind(process: IngressProcess, *scripts: Answer) -> Iterator[list[ScriptedReplica]]:
    """A replica behind the ingress for each script; the first gets the first request."""
    with ExitStack() as stack:
        replicas = [stack.enter_context(ScriptedReplica(script)) for script in scripts]
        for replica in replicas:
            replica.id = f"r{next(_numbers)}"
            process.add(replica.id, replica.port)
            stack.callback(process.order, RemoveReplica(replica.id))
        yield replicas


DIALECTS = {
    CHAT: b'"code":"replica_lost"',
    "/v1/completions": b'"code":"replica_lost"',
    "/v1/responses": b"event: error\ndata: ",
    "/v1/messages": b'event: error\ndata: {"type":"error","error":{"type":"api_error"',
    "/api/chat": b'{"error":"The replica',
    "/completion": b'data: {"error":{"code":502',
}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("cut", [b"", b"40\r\ndata: {"])
def test_a_lost_replicas_stream_ends_with_the_dialects_error(patient: IngressProcess, path: str, cut: bytes) -> None:
    """Also in the middle of an event, of which the client sees nothing."""
    with behind(patient, breaks(BEGUN, STREAM_HEAD, framed(CHUNK) + cut)) as replicas:
        reply = ask(patient.port, "POST", path, {**BODY, "stream": True})
        assert (reply.status, reply.chunks[0]) == (200, CHUNK)
        assert DIALECTS[path] in b"".join(reply.chunks[1:])
        assert b"[DONE]" not in reply.body
        assert len(replicas[0].received) == 1


def test_an_openai_stream_shows_the_error_as_text_first_in_the_streams_own_name(patient: IngressProcess) -> None:
    with behind(patient, breaks(BEGUN, STREAM_HEAD, framed(CHUNK))):
        reply = ask(patient.port, "POST", CHAT, {**BODY, "stream": True})
    shown = json.loads(reply.chunks[1].removeprefix(b"data: "))
    assert (shown["id"], shown["created"], shown["model"]) == ("chatcmpl-1", 5, "scripted")
    assert "replica" in shown["choices"][0]["delta"]["content"]


@pytest.mark.parametrize("path", DIALECTS)
def test_a_whole_reply_whose_replica_is_lost_is_the_dialects_502(patient: IngressProcess, path: str) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"
    for pieces in ((BEGUN,), (BEGUN, half)):
        with behind(patient, breaks(*pieces), answers(OK)) as replicas:
            reply = ask(patient.port, "POST", path, {**BODY, "stream": False})
            assert reply.status == 502
            assert "replica" in str(reply.json())
            assert [len(replica.received) for replica in replicas] == [1, 0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_without_a_begun_engine_goes_elsewhere(patient: IngressProcess, stream: bool) -> None:
    second = BEGUN + (STREAM_HEAD + framed(CHUNK) + b"0\r\n\r\n" if stream else OK)
    with behind(patient, breaks(), answers(second)) as replicas:
        body = json.dumps({**BODY, "stream": stream}).encode()
        reply = ask(patient.port, "POST", CHAT, body)
        assert (reply.status, reply.body) == (200, CHUNK if stream else b"{}")
        assert [[request.body for request in replica.received] for replica in replicas] == [[body], [body]]


def test_signs_of_life_do_not_keep_a_request_from_another_replica(lively: IngressProcess) -> None:
    """The stream is open already; the second replica's head is dropped."""
    hold = threading.Event()
    second = BEGUN + STREAM_HEAD + framed(CHUNK) + b"0\r\n\r\n"
    with behind(lively, breaks(hold=hold), answers(second)) as replicas:
        with Connection(lively.port) as connection:
            connection.request("POST", CHAT, {**BODY, "stream": True})
            assert connection.read_head().status == 200
            assert b'"content":""' in connection.chunk()
            hold.set()
            chunks = [chunk for chunk in connection.chunks() if b'"content":""' not in chunk]
        assert chunks == [CHUNK]
        assert [len(replica.received) for replica in replicas] == [1, 1]


def test_an_error_behind_signs_of_life_is_the_streams_error(lively: IngressProcess) -> None:
    hold = threading.Event()

    def refuse(request: Received, wire: Wire) -> None:
        hold.wait(60)
        body = b'{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":"context_length"}}'
        wire.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    with behind(lively, refuse), Connection(lively.port) as connection:
        connection.request("POST", CHAT, {**BODY, "stream": True})
        connection.read_head()
        connection.chunk()
        hold.set()
        assert b'{"error":{"message":"too long","type":"invalid_request_error"' in list(connection.chunks())[-1]


def test_a_replica_that_takes_no_request_now_is_passed_over(patient: IngressProcess) -> None:
    with behind(patient, answers(BUSY), answers(OK)) as replicas:
        assert ask(patient.port, "POST", CHAT, BODY).status == 200
        assert [len(replica.received) for replica in replicas] == [1, 1]


def test_where_all_refuse_the_client_gets_a_replicas_own_answer(patient: IngressProcess) -> None:
    with behind(patient, answers(BUSY), answers(BUSY)) as replicas:
        reply = ask(patient.port, "POST", CHAT, BODY)
        assert (reply.status, reply.header("retry-after")) == (503, "2")
        assert reply.body == b'{"error":{"message":"busy"}}'
        assert [len(replica.received) for replica in replicas] == [1, 1]


def test_a_request_is_sent_a_limited_number_of_times(patient: IngressProcess) -> None:
    with behind(patient, *[breaks()] * 4) as replicas:
        reply = ask(patient.port, "POST", CHAT, BODY)
        assert (reply.status, reply.error()["code"]) == (503, "no_replica")
        assert sum(len(replica.received) for replica in replicas) == 3


def test_a_silent_replica_is_lost(patient: IngressProcess) -> None:
    """A machine that is gone closes no connection: the silence of the channel tells."""

    def begin(request: Received, wire: Wire) -> None:
        wire.send(BEGUN + STREAM_HEAD + framed(CHUNK))
        wire.wait_closed()

    with behind(patient, begin) as replicas, Connection(patient.port) as connection:
        connection.request("POST", CHAT, {**BODY, "stream": True})
        connection.read_head()
        assert connection.chunk() == CHUNK
        replicas[0].fall_silent()
        assert b"replica_lost" in b"".join(connection.chunks())
        patient.wait_phase(replicas[0].id, "gone")
        assert ask(patient.port, "GET", "/health").status == 503


def test_a_waiting_request_goes_on_when_its_only_replica_is_replaced(patient: IngressProcess) -> None:
    waits = behind(patient, lambda request, wire: wire.wait_closed())
    with waits as replicas, Connection(patient.port) as connection:
        connection.request("POST", CHAT, BODY)
        wait_for("the request to be there", lambda: bool(replicas[0].received))
        replicas[0].close()
        patient.wait_phase(replicas[0].id, "gone")
        with ScriptedReplica(answers(BEGUN + OK)) as other:
            patient.add("other", other.port)
            assert connection.read().status == 200
            assert len(other.received) == 1
            patient.order(RemoveReplica("other"))


def test_a_draining_replica_gets_nothing_new(patient: IngressProcess) -> None:
    draining = ScriptedReplica(answers(OK), phase="draining")
    with draining, behind(patient, answers(OK)) as (ready,):
        patient.add("draining", draining.port, phase="draining")
        for _ in range(5):
            assert ask(patient.port, "POST", CHAT, BODY).status == 200
        assert (len(ready.received), len(draining.received)) == (5, 0)
        patient.order(RemoveReplica("draining"))


@pytest.mark.parametrize(
    "defect",
    [
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        BEGUN + STREAM_HEAD + b"zz\r\n",
        BEGUN + STREAM_HEAD + b"x" * 100,
        BEGUN + OK + b"more than announced",
        b"x" * 100_000,
    ],
)
def test_bytes_that_are_no_response_harm_nobody(patient: IngressProcess, defect: bytes) -> None:
    """The client gets an error or a cut reply, and the next request is served."""

    def answer(request: Received, wire: Wire) -> None:
        wire.send(defect if len(replicas[0].received) == 1 else OK)

    with behind(patient, answer) as replicas:
        first = ask(patient.port, "POST", CHAT, {**BODY, "stream": True})
        assert first.status in (200, 502, 503)
        assert ask(patient.port, "POST", CHAT, BODY).status == 200


def test_what_a_client_sends_arrives_with_the_proxys_headers(patient: IngressProcess) -> None:
    with behind(patient, answers(OK)) as replicas:
        headers = {
            "x-forwarded-for": "192.0.2.1",
            "x-custom": "kept",
            "connection": "keep-alive, x-private",
            "x-private": "dropped",
            "te": "trailers",
            "authorization": "Bearer key",
            "x-request-id": "mine",
        }
        ask(patient.port, "POST", "/v1//chat/completions?a=b%20c", chat("x"), headers, chunked=5)
        (request,) = replicas[0].received
        assert request.target == "/v1//chat/completions?a=b%20c"
        assert request.header("x-forwarded-for") == "192.0.2.1, 127.0.0.1"
        assert (request.header("x-custom"), request.header("authorization")) == ("kept", "Bearer key")
        assert request.header("x-request-id") == "mine"
        assert request.header("content-length") == str(len(request.body))
        names = {name for name, _ in request.headers}
        assert not names & {"x-private", "te", "transfer-encoding", "connection"}


def test_a_connection_is_used_again_and_a_stale_one_is_no_loss(patient: IngressProcess) -> None:
    connections: list[Wire] = []

    def answer(request: Received, wire: Wire) -> None:
        connections.append(wire)
        wire.send(OK)

    with behind(patient, answer) as replicas:
        for _ in range(3):
            assert ask(patient.port, "POST", CHAT, BODY).status == 200
        connections[0].end()  # As a replica does with idle connections.
        assert ask(patient.port, "POST", CHAT, BODY).status == 200
        assert len(replicas[0].received) == 4
