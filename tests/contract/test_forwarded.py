"""What a replica does otherwise for requests that the cluster's ingress forwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openai_wire import Connection, ask, chat, chat_stream, metric
from servers import ServerProcess, fake, wait_for
from tailrace.cluster_protocol.forwarding import BEGUN, CLIENT_HEADER
from tailrace.cluster_protocol.state import SECRET_HEADER

SECRET = "a-secret-without-spaces"
CHAT = "/v1/chat/completions"
FORWARDED = {SECRET_HEADER: SECRET, CLIENT_HEADER: "192.0.2.7"}
ENDLESS = "<say>" + "x" * 7000 + "</say>"


@pytest.fixture(scope="module")
def replica() -> Iterator[ServerProcess]:
    """One request at a time, keep-alives after 0.2 s."""
    arguments = ("--parallel", "1", "--keepalive-seconds", "0.2")
    with fake(*arguments, step=0.02, cluster_secret=SECRET) as server:
        yield server


def begins_with_102(connection: Connection) -> None:
    assert connection.read_head().head + b"\r\n\r\n" == BEGUN


@pytest.mark.parametrize("stream", [True, False])
def test_the_interim_response_comes_before_the_head_once_an_engine_works(replica: ServerProcess, stream: bool) -> None:
    with Connection(replica.port) as connection:
        connection.request("POST", CHAT, chat("<say>ab</say>", stream=stream), FORWARDED)
        begins_with_102(connection)
        assert connection.read().status == 200


def test_a_queued_request_is_silent(replica: ServerProcess) -> None:
    """It could still be sent elsewhere, so there is no head and no keep-alive."""
    with Connection(replica.port) as queued:
        with Connection(replica.port) as first:
            first.request("POST", CHAT, chat(ENDLESS, stream=True), FORWARDED)
            begins_with_102(first)
            assert first.read_head().status == 200
            queued.request("POST", CHAT, chat("<say>ab</say>", stream=True), FORWARDED)
            wait_for("the second to wait", lambda: metric(replica.port, "vllm:num_requests_waiting") == 1)
            for _ in range(60):  # 1.2 s: keep-alives would come.
                first.chunk()
        begins_with_102(queued)
        assert chat_stream(queued.read()).text == ["ab"]


@pytest.mark.parametrize("body", [{}, chat("x" * 90000)])
def test_an_error_has_no_interim_response(replica: ServerProcess, body: dict[str, object]) -> None:
    assert ask(replica.port, "POST", CHAT, body, FORWARDED).status == 400


def test_other_clients_get_none(replica: ServerProcess) -> None:
    for headers in ({}, {SECRET_HEADER: "another-secret-of-some-length"}):
        assert ask(replica.port, "POST", CHAT, chat("<say>a</say>"), headers).status == 200


def test_the_ingress_has_checked_host_and_origin(replica: ServerProcess) -> None:
    elsewhere = {"host": "llm.example.com"}
    assert ask(replica.port, "GET", "/v1/models", headers=elsewhere).status == 403
    assert ask(replica.port, "GET", "/v1/models", headers=elsewhere | FORWARDED).status == 200


def test_the_log_names_the_client_behind_the_ingress(replica: ServerProcess) -> None:
    ask(replica.port, "GET", "/v1/models/nothing", headers=FORWARDED)
    wait_for("the line", lambda: "client=192.0.2.7" in replica.log)
