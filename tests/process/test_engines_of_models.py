"""Engines of several models behind one HTTP process: one that dies, one that can't load, and the server's end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openai_wire import Connection, ask, chat
from servers import ServerProcess, alive, fake, serving, wait_for
from service_manager import Manager
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

CHAT = "/v1/chat/completions"
LONG = "<say>" + "x" * 400 + "</say>"
#: Longer than any test takes, with steps of 10 ms.
ENDLESS = "<say>" + "x" * 4000 + "</say>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Three scripted models, of which one can't be loaded, with steps of 10 ms."""
    file = tmp_path / "config.toml"
    file.write_text("[models.a]\n[models.b]\n[models.broken]\n", encoding="utf-8")
    with fake("--config", str(file), step=0.01, fake_load_fails="broken=tensor 7 is missing") as server:
        yield server


def asked(model: str, text: str = "<say>ok</say>", **options: object) -> dict[str, object]:
    return {**chat(text), "model": model, **options}


def engine_of(server: ServerProcess, model: str) -> int:
    """The process of the model's engine, as the server's state has it."""
    (state,) = server.temporary.glob("tailrace/servers/*.json")
    loaded = json.loads(state.read_bytes())["loaded"]
    pid: int = next(each["engines"][0] for each in loaded if each["name"] == model)
    return pid


def test_an_engine_that_is_killed_ends_no_stream_of_another_model(server: ServerProcess) -> None:
    for model in ("a", "b"):
        assert ask(server.port, "POST", CHAT, asked(model)).status == 200
    before = engine_of(server, "b")
    with Connection(server.port) as a, Connection(server.port) as b:
        for connection, model in ((a, "a"), (b, "b")):
            connection.request("POST", CHAT, asked(model, ENDLESS, stream=True, max_tokens=4000))
            assert connection.read_head().status == 200
            while b'"content":"x' not in connection.chunk():  # without a token it would begin again elsewhere
                pass
        os.kill(engine_of(server, "a"), signal.SIGKILL)
        assert b"engine_died" in b"".join(a.chunks())
        assert all(b'"delta"' in b.chunk() for _ in range(20))
    assert engine_of(server, "b") == before
    assert ask(server.port, "POST", CHAT, asked("a")).status == 200


def _sum(server: ServerProcess, name: str) -> float:
    text = ask(server.port, "GET", "/metrics").body.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))


def test_a_model_that_can_t_load_fails_its_own_requests_alone(server: ServerProcess) -> None:
    reply = ask(server.port, "POST", CHAT, asked("broken"))
    assert reply.status == 503
    assert "tensor 7 is missing" in reply.error()["message"]
    assert ask(server.port, "POST", CHAT, asked("b")).status == 200
    assert server.process.poll() is None


def test_a_stop_drains_every_model_and_ends_every_engine(server: ServerProcess) -> None:
    for model in ("a", "b"):
        assert ask(server.port, "POST", CHAT, asked(model)).status == 200
    engines = [engine_of(server, model) for model in ("a", "b")]
    replies = []
    threads = [
        threading.Thread(target=lambda model=model: replies.append(ask(server.port, "POST", CHAT, asked(model, LONG))))
        for model in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    wait_for("both replies", lambda: _sum(server, "vllm:num_requests_running") == 2)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60.0)
    assert [reply.status for reply in replies] == [200, 200]
    assert all(len(reply.json()["choices"][0]["message"]["content"]) == 400 for reply in replies)
    assert server.process.wait(60) == 0
    wait_for("the engines to end", lambda: not any(map(alive, engines)))


def test_a_service_manager_hears_how_many_are_loaded(tmp_path: Path) -> None:
    """The first one can't be loaded: the service is ready for the others."""
    file = tmp_path / "config.toml"
    file.write_text("[models.broken]\n[models.b]\n", encoding="utf-8")
    with Manager() as manager:
        environment = {"NOTIFY_SOCKET": manager.name, "TAILRACE_FAKE_LOAD_FAILS": "broken=tensor 7 is missing"}
        with serving("--backend", "fake", "--config", str(file), environment=environment) as server:
            wait_for("READY=1", lambda: manager.count("READY=1") == 1)
            assert ask(server.port, "POST", CHAT, asked("b")).status == 200
            text = f"STATUS=serving 2 models on port {server.port}, 1 loaded"
            wait_for("the number of loaded models", lambda: manager.count(text) > 0)


def test_two_files_are_two_models_and_a_broken_third_one_fails_alone(tmp_path: Path) -> None:
    path = locate_model(STARTER_MODEL).path
    second, broken = tmp_path / "second.gguf", tmp_path / "broken.gguf"
    second.symlink_to(path)
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    options = ("--ctx", "512", "--parallel", "1", "--threads", "1")
    with serving(str(path), str(second), str(broken), *options) as server:
        replies = {}
        for model in (path.stem, "second", "broken"):
            body = asked(model, "The capital of France is", max_tokens=4, temperature=0)
            replies[model] = ask(server.port, "POST", CHAT, body)
        assert replies["broken"].status == 503
        assert "whole GGUF file" in replies["broken"].error()["message"]
        contents = [replies[model].json()["choices"][0]["message"]["content"] for model in (path.stem, "second")]
        assert contents[0] == contents[1]
        assert [replies[model].json()["model"] for model in (path.stem, "second")] == [path.stem, "second"]
