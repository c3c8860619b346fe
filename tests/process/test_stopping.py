"""Servers that are asked to stop: what becomes of running replies, and which processes and files remain."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from openai_requests import CHAT, LONG, begin
from openai_wire import Connection, ask, chat, chat_stream, failed_stream, metric
from servers import PATIENCE, alive, fake, serving, wait_for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_replies_finish(number: signal.Signals) -> None:
    with fake("--drain-seconds", "30", step=0.01) as server:
        children = [server.engine, server.http]
        with Connection(server.port) as running, Connection(server.port) as idle:
            idle.request("GET", "/health")
            assert idle.read().status == 200
            running.request("POST", CHAT, chat("<say>" + "x" * 150 + "</say>", stream=True))
            reply = running.read_head()
            reply.chunks.append(running.chunk())
            server.process.send_signal(number)
            reply.chunks += running.chunks()
            assert chat_stream(reply).text == ["x" * 150]
        assert server.process.wait(PATIENCE) == 0
        assert not any(alive(pid) for pid in children)
        assert not list(server.temporary.glob("tailrace/servers/*")), "the server's record is left behind"
        assert "Traceback" not in server.log


def test_replies_that_take_longer_than_the_drain_time_end_with_an_error_in_their_dialect() -> None:
    with fake("--drain-seconds", "1", step=0.02) as server:
        stream, whole = begin(server), Connection(server.port)
        whole.request("POST", CHAT, chat(LONG))
        anthropic, ollama = Connection(server.port), Connection(server.port)
        anthropic.request("POST", "/v1/messages", chat(LONG, model="fake", max_tokens=5000, stream=True))
        ollama.request("POST", "/api/chat", chat(LONG, model="fake"))
        wait_for("all of them to run", lambda: metric(server.port, "vllm:num_requests_running") == 4)
        server.process.send_signal(signal.SIGTERM)
        text, error = failed_stream(list(stream.chunks()))
        assert text.startswith("xxx")
        assert error["code"] == "shutting_down"
        reply = whole.read()
        assert (reply.status, reply.header("retry-after")) == (503, "5")
        assert reply.error()["code"] == "shutting_down"
        anthropic.read_head()
        last = list(anthropic.chunks())[-1]
        assert last.startswith(b"event: error\ndata: ")
        assert b'"overloaded_error"' in last
        ollama.read_head()
        assert b"shutting down" in json.loads(list(ollama.chunks())[-1])["error"].encode()
        for connection in (stream, whole, anthropic, ollama):
            connection.close()
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.log


def test_a_stopping_server_refuses_new_requests_and_ends_queued_ones_at_once() -> None:
    with fake("--drain-seconds", "30", "--parallel", "1", step=0.02) as server:
        running = begin(server)
        whole, opened, reading = (Connection(server.port) for _ in range(3))
        whole.request("POST", CHAT, chat(LONG))
        opened.request("POST", CHAT, chat(LONG, stream=True))
        opened.read_head()
        reading.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{")
        idle = Connection(server.port)
        idle.request("GET", "/health")
        idle.read()
        wait_for("two to wait", lambda: metric(server.port, "vllm:num_requests_waiting") == 2)
        server.process.send_signal(signal.SIGTERM)
        for connection in (whole, reading):
            reply = connection.read()
            assert reply.status == 503
            assert reply.error()["code"] == "shutting_down"
        _, error = failed_stream(list(opened.chunks()))
        assert error["code"] == "shutting_down"
        assert idle.read_to_end() == b""
        states = [ask(server.port, "GET", path) for path in ("/health", "/health/ready", "/health/live", "/metrics")]
        assert [state.status for state in states] == [503, 503, 200, 200]
        assert states[0].json()["status"] == "draining"
        for path, body in ((CHAT, chat("Hi")), ("/v1/messages", {}), ("/api/chat", {}), ("/v1/models", None)):
            refused = ask(server.port, "POST" if body is not None else "GET", path, body)
            assert refused.status == 503
            assert refused.header("retry-after") == "5"
            assert refused.header("connection") == "close"
            assert b"shutting down" in refused.body
        assert running.chunk(), "the running one goes on"
        for connection in (running, whole, opened, reading, idle):
            connection.close()
        assert server.process.wait(PATIENCE) == 0


def test_a_response_in_the_background_has_failed_when_the_server_has_stopped(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path), "TAILRACE_FAKE_STEP_SECONDS": "0.02"}
    with serving("--backend", "fake", "--drain-seconds", "0.5", environment=state) as server:
        started = ask(server.port, "POST", "/v1/responses", {"input": LONG, "background": True}).json()
        wait_for("it to run", lambda: metric(server.port, "vllm:num_requests_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    with serving("--backend", "fake", environment=state) as server:
        response = ask(server.port, "GET", f"/v1/responses/{started['id']}").json()
        assert response["status"] == "failed"
        assert "shutting down" in response["error"]["message"]


def test_a_stopping_server_does_not_wait_for_a_client_that_reads_nothing() -> None:
    with (
        fake("--drain-seconds", "600", "--ctx", "300000") as server,
        Connection(server.port, receive_buffer=4096) as connection,
    ):
        connection.request("POST", CHAT, chat("<say>" + "y" * 10_000 + "</say>", logprobs=True, top_logprobs=20))
        wait_for("the reply to be whole", lambda: metric(server.port, "vllm:generation_tokens_total") > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_a_second_ctrl_c_stops_at_once() -> None:
    with fake("--drain-seconds", "600", step=0.02) as server:
        children = [server.engine, server.http]
        with begin(server) as stream:
            server.process.send_signal(signal.SIGINT)
            wait_for("it to be stopping", lambda: "stopping" in server.log)
            stream.chunk()
            assert server.process.poll() is None, "it waits for the reply"
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(PATIENCE) == 128 + signal.SIGINT
        assert not list(server.temporary.glob("tailrace/servers/*")), "the server's record is left behind"
        wait_for("the children to vanish", lambda: not any(alive(pid) for pid in children))
