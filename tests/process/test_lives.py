"""Processes that die and start again: what clients see of it, and which processes remain."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from openai_requests import CHAT, LONG, begin, reply_to
from openai_wire import Connection, ask, chat, chat_stream, failed_stream, metric
from servers import ServerProcess, alive, fake, wait_for


def replace_engine(server: ServerProcess) -> None:
    """Kill the engine; return when the next one's process exists."""
    engine = server.engine
    os.kill(engine, signal.SIGKILL)
    wait_for("a second engine", lambda: server.child("engine") not in (None, engine))


# The engine dies


def test_the_engine_dies_during_eight_streams() -> None:
    with fake(step=0.02) as server:
        connections = [begin(server) for _ in range(8)]
        engine = server.engine
        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        endings = [list(connection.chunks()) for connection in connections]
        assert time.monotonic() - killed < 1.0
        for chunks, connection in zip(endings, connections, strict=True):
            text, error = failed_stream(chunks)
            assert text.strip("x").startswith("\n\n[error: ")
            assert (error["code"], error["type"]) == ("engine_died", "server_error")
            connection.close()
        assert reply_to(server) == "ok"
        assert server.engine != engine
        assert metric(server.port, "tailrace:engine_starts_total") == 2


def test_the_engine_dies_during_every_other_kind_of_request() -> None:
    with fake("--reasoning", "inline", step=0.02) as server:
        several = begin(server, n=3)
        thinking = begin(server, "<say><think>" + "x" * 4000 + "</say>")
        thinking.chunk()
        whole = Connection(server.port)
        whole.request("POST", CHAT, chat(LONG))
        text = Connection(server.port)
        text.request("POST", "/v1/completions", {"prompt": LONG, "max_tokens": 5000, "stream": True})
        text.read_head()
        wait_for("a token of each", lambda: metric(server.port, "vllm:time_to_first_token_seconds_count") == 4)
        os.kill(server.engine, signal.SIGKILL)
        reply = whole.read()
        assert reply.status == 500
        assert reply.error()["code"] == "engine_died"
        chunks = list(several.chunks())
        assert [chunk.startswith(b'data: {"error":') for chunk in chunks].count(True) == 1
        assert chunks[-1].startswith(b'data: {"error":')
        seen, error = failed_stream(list(thinking.chunks()))
        assert "</think>\n\n[error: " in seen, "an error within the thought would be hidden"
        seen, error = failed_stream(list(text.chunks()))
        assert error["code"] == "engine_died"
        for connection in (several, thinking, whole, text):
            connection.close()


def test_requests_without_a_token_survive_the_engine_that_has_them() -> None:
    with fake("--parallel", "1", step=0.02) as server:
        running = begin(server)
        queued = [Connection(server.port) for _ in range(6)]
        for number, connection in enumerate(queued):
            connection.request("POST", CHAT, chat(f"<say>{number}</say>", stream=number % 2 == 0))
        wait_for("them to wait", lambda: metric(server.port, "vllm:num_requests_waiting") == 6)
        os.kill(server.engine, signal.SIGKILL)
        _, error = failed_stream(list(running.chunks()))
        assert error["code"] == "engine_died"
        for number, connection in enumerate(queued):
            reply = connection.read()
            assert reply.status == 200, reply.body
            if number % 2 == 0:
                assert chat_stream(reply).text == [str(number)]
            else:
                assert reply.json()["choices"][0]["message"]["content"] == str(number)
            connection.close()
        running.close()


def test_a_crashing_engine_is_restarted_and_requests_wait() -> None:
    with fake() as server:
        for _ in range(3):
            os.kill(server.engine, signal.SIGKILL)
            wait_for("the loss to be noticed", lambda: ask(server.port, "GET", "/health").status == 503)
            assert ask(server.port, "GET", "/health").json()["status"] == "restarting"
            assert ask(server.port, "GET", "/v1/models").status == 200
            assert reply_to(server) == "ok"
        assert ask(server.port, "GET", "/health").status == 200


def test_without_an_engine_in_time_a_503_has_retry_after() -> None:
    with fake(engine_wait_seconds="0.2") as server:
        replace_engine(server)
        os.kill(server.engine, signal.SIGKILL)  # The third is started after half a second.
        wait_for("the loss to be noticed", lambda: ask(server.port, "GET", "/health").status == 503)
        replies = [ask(server.port, "POST", CHAT, chat("<say>ok</say>", stream=stream)) for stream in (True, False)]
        reply = replies[0]
        assert reply.status == 503
        assert reply.header("retry-after") is not None
        assert reply.error()["code"] == "engine_unavailable"
        wait_for("the third engine", lambda: ask(server.port, "GET", "/health").status == 200)
        assert reply_to(server) == "ok"


def test_requests_while_the_model_loads_wait_and_are_answered() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ServerProcess("--port", str(port), "--ctx", "512", "--threads", "1")
    try:
        wait_for("the door to be open", lambda: _open(port))
        # Asked before the engine can be there: Python alone takes longer to start.
        waiting = Connection(port)
        waiting.request("POST", CHAT, chat("Hi", max_tokens=2, stream=True))
        models = ask(port, "GET", "/v1/models")
        assert models.json()["data"][0]["id"] == "smollm2-135m"
        assert chat_stream(waiting.read()).finish == ["length"]
        waiting.close()
    finally:
        server.close()


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# The HTTP process dies


def test_the_http_process_dies_and_the_engine_stays() -> None:
    with fake(step=0.02) as server:
        engine, http = server.engine, server.http
        stream = begin(server)
        os.kill(http, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            list(stream.chunks())
        stream.close()
        assert reply_to(server) == "ok"
        assert server.http != http
        assert server.engine == engine
        assert metric(server.port, "vllm:num_requests_running") == 0, "what the dead one had asked for has ended"


# The supervisor dies


def test_the_children_die_with_the_supervisor() -> None:
    with fake() as server:
        children = [server.engine, server.http]
        os.kill(server.pid, signal.SIGKILL)
        wait_for("the children to vanish", lambda: not any(alive(pid) for pid in children))


def test_a_child_that_is_just_starting_dies_with_the_supervisor() -> None:
    """Again and again, because the moment is short."""
    for _ in range(3):
        with fake() as server:
            replace_engine(server)
            os.kill(server.pid, signal.SIGKILL)
            # Leaving the block fails when a child stays.


# Doing nothing


def test_idle_costs_less_than_one_percent_of_a_core() -> None:
    with fake() as server:
        assert reply_to(server) == "ok"
        pids = [server.pid, server.engine, server.http]
        time.sleep(1.0)
        before, begun = sum(map(_cpu_seconds, pids)), time.monotonic()
        time.sleep(10.0)
        used, elapsed = sum(map(_cpu_seconds, pids)) - before, time.monotonic() - begun
        assert used / elapsed < 0.01


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_log_in_json_is_json() -> None:
    with fake("--log-format", "json") as server:
        os.kill(server.engine, signal.SIGKILL)
        wait_for("the death to be told", lambda: "the engine process died" in server.log)
        entries = [json.loads(line) for line in server.log.splitlines()]
        assert all({"event", "level", "process", "timestamp"} <= set(entry) for entry in entries)
