"""Processes that die, stop and start: what clients see of it, and which processes and files remain."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openai_wire import Connection, ask, chat, chat_stream, failed_stream, metric
from servers import PATIENCE, ServerProcess, alive, fake, serving, wait_for
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

CHAT = "/v1/chat/completions"
#: A reply of a minute and a half at 20 ms a step.
LONG = "<say>" + "x" * 4500 + "</say>"


def begin(server: ServerProcess, text: str = LONG, **fields: object) -> Connection:
    """A stream whose first piece of text has arrived."""
    connection = Connection(server.port)
    connection.request("POST", CHAT, chat(text, stream=True, **fields))
    connection.read_head()
    connection.chunk()
    connection.chunk()
    return connection


def reply_to(server: ServerProcess, text: str = "<say>ok</say>") -> str:
    reply = ask(server.port, "POST", CHAT, chat(text))
    assert reply.status == 200, reply.body
    said: str = reply.json()["choices"][0]["message"]["content"]
    return said


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


# Stopping


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


# What can't be started


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    command = [str(Path(sys.executable).with_name("tailrace")), "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_port_in_use_is_one_line() -> None:
    with fake() as server:
        ended = serve("--backend", "fake", "--port", str(server.port))
        assert ended.returncode == 2
        assert ended.stdout == ""
        (line,) = ended.stderr.strip().splitlines()
        assert str(server.port) in line
        assert "--port" in line
        assert reply_to(server) == "ok"


@pytest.mark.parametrize("flag", ["--ctx", "--kv-tokens"])
def test_a_context_that_can_not_fit_into_memory_is_one_line_with_the_numbers(flag: str) -> None:
    ended = serve("--port", "0", flag, "16777216")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "16777216, whose KV cache takes 386.5 GB" in line
    assert f"set {flag} to " in line


def test_a_header_that_llama_cpp_aborts_on_ends_the_server_with_its_message(tmp_path: Path, starter: Path) -> None:
    data = starter.read_bytes()
    at = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    ended = serve(str(path), "--port", "0")
    assert ended.returncode == 78
    last = ended.stderr.strip().splitlines()[-1]
    assert "the model can't be loaded: SIGABRT: llama.cpp aborted: " in last
    assert ended.stderr.count("the engine process died") == 1


@pytest.mark.parametrize("how", ["cut", "rubbish", "empty"])
def test_a_broken_model_ends_the_server_with_a_message(tmp_path: Path, starter: Path, how: str) -> None:
    path = tmp_path / "broken.gguf"
    data = starter.read_bytes()
    path.write_bytes({"cut": data[:20_000_000], "rubbish": b"rubbish" * 1000, "empty": b""}[how])
    ended = serve(str(path), "--port", "0")
    assert ended.returncode != 0
    assert "broken.gguf" in ended.stderr
    assert ended.stderr.count("the model can't be served") <= 1
    assert "Traceback" not in ended.stderr


def test_a_model_with_a_broken_template_still_completes_texts(tmp_path: Path, starter: Path) -> None:
    """With another template it holds conversations, too."""
    data = starter.read_bytes()
    assert data.count(b"{% for message in messages %}") == 1
    path = tmp_path / "mute.gguf"
    path.write_bytes(data.replace(b"{% for message in messages %}", b"{% fur message in messages %}"))
    with serving(str(path), "--ctx", "256", "--threads", "1") as server:
        reply = ask(server.port, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 2})
        assert reply.status == 200
        refused = ask(server.port, "POST", CHAT, chat("Hello"))
        assert (refused.status, refused.error()["code"]) == (400, "chat_template_unusable")
        assert "--chat-template" in refused.error()["message"]
        assert "conversations are refused" in server.log
        assert "Traceback" not in server.log
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}", encoding="utf-8")
    with serving(str(path), "--ctx", "256", "--threads", "1", "--chat-template", str(other)) as server:
        messages = [{"role": "user", "content": "Hello"}]
        reply = ask(server.port, "POST", "/apply-template", {"messages": messages})
        assert reply.json() == {"prompt": "<user>Hello\n"}
        assert ask(server.port, "POST", CHAT, chat("Hello", max_tokens=2)).status == 200
        shown = ask(server.port, "POST", "/api/show", {"model": "mute"})
        assert shown.json()["template"] == other.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "can't be read"),
        (b"", "is empty"),
        (b"\xff\xfe", "can't be read"),
        (b"{% for %}", "can't be compiled"),
        (b"Hello!", "leaves out"),
        (b"{{ raise_exception('never') }}", "never"),
    ],
)
def test_a_chat_template_that_can_not_be_used_is_a_wrong_setting(
    tmp_path: Path, text: bytes | None, reason: str
) -> None:
    path = tmp_path / "wrong.jinja"
    if text is not None:
        path.write_bytes(text)
    ended = serve("--backend", "fake", "--port", "0", "--chat-template", str(path))
    assert ended.returncode == 2
    assert "chat_template" in ended.stderr
    assert reason in ended.stderr
    assert str(path) in ended.stderr.replace("\n", "")


@pytest.fixture(scope="module")
def starter() -> Path:
    """The starter model's file."""
    return locate_model(STARTER_MODEL).path


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
