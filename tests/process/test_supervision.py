"""The supervisor over real children: what a service manager hears, and signals at inconvenient times."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from openai_wire import ask, chat
from servers import ServerProcess, alive, fake, serving, wait_for
from service_manager import Manager


def test_a_service_manager_hears_of_every_change() -> None:
    with Manager() as manager:
        environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "2000000"}
        with serving("--backend", "fake", environment=environment) as server:
            wait_for("READY=1", lambda: manager.count("READY=1") == 1)
            assert f"serving fake on port {server.port}" in manager.heard[-1] or manager.count("WATCHDOG=1")
            before = manager.count("WATCHDOG=1")
            wait_for("signs of life", lambda: manager.count("WATCHDOG=1") > before + 1)
            server.process.send_signal(signal.SIGHUP)
            wait_for("RELOADING=1", lambda: manager.count("RELOADING=1\nMONOTONIC_USEC=") == 1)
            wait_for("the end of the reload", lambda: manager.count("READY=1") == 2)
            assert ask(server.port, "GET", "/health/ready").status == 200
            engine = server.engine
            os.kill(engine, signal.SIGKILL)
            wait_for("another process", lambda: server.child("engine") not in (None, engine))
            wait_for("the new engine", lambda: ask(server.port, "GET", "/health/ready").status == 200)
            assert manager.count("READY=1") == 2, "a restart is no start of the service"
            assert "NOTIFY_SOCKET" not in _environment(server.engine)
            server.process.send_signal(signal.SIGTERM)
            wait_for("STOPPING=1", lambda: manager.count("STOPPING=1") == 1)
            assert server.process.wait(60) == 0


def _environment(pid: int) -> set[str]:
    if not Path("/proc").is_dir():
        return set()
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {pair.partition(b"=")[0].decode() for pair in pairs}


def test_no_process_imports_from_the_folder_in_which_the_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one of downloads."""
    for module in ("msgspec", "structlog", "numpy", "tailrace"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with fake() as server:
        grammar = {"response_format": {"type": "json_object"}}
        assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>{}</say>") | grammar).status == 200
        assert "process died" not in server.log


def test_a_hang_up_during_the_start_harms_nothing() -> None:
    server = ServerProcess("--backend", "fake", "--port", "0")
    try:
        wait_for("the children", lambda: server.child("server") is not None)
        for _ in range(20):
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        server.wait_ready()
        assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>ok</say>")).status == 200
        assert "process died" not in server.log
        assert "reloading" in server.log
    finally:
        server.close()


def test_the_port_is_free_again_after_the_supervisor_s_death() -> None:
    with fake() as server:
        port, children = server.port, [server.engine, server.http]
        os.kill(server.pid, signal.SIGKILL)
        wait_for("the children to vanish", lambda: not any(alive(pid) for pid in children))
        # A process's last threads may end a moment after it, and its sockets with them.
        wait_for("the port", lambda: can_listen(port))


def can_listen(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def test_the_stacks_of_all_threads_are_logged_on_request() -> None:
    with fake() as server:
        server.process.send_signal(signal.SIGUSR1)
        wait_for("two stacks", lambda: len(re.findall("Current thread", server.log)) == 2)
        assert "in run" in server.log
        assert ask(server.port, "GET", "/health").status == 200


def test_a_hanging_engine_is_replaced_and_its_client_gets_an_error() -> None:
    with fake(step=0.01, hang_seconds="2") as server:
        engine = server.engine
        reply = ask(server.port, "POST", "/v1/chat/completions", chat("<say>abc<hang></say>"))
        assert reply.status == 500
        assert reply.error()["code"] == "engine_died"
        assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>ok</say>")).status == 200
        assert server.engine != engine
        assert "the engine process hangs; it is replaced" in server.log
