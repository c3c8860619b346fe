"""Processes that hang in other ways than by a signal; and silences that are no hang."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fault_figures import Record
from openai_wire import Connection, ask, chat
from servers import PATIENCE, ServerProcess, alive, fake, serving, wait_for
from tailrace.models.model_reference import locate_model

CHAT = "/v1/chat/completions"
#: Seconds in which the clients of a process that hangs know of it.
TOLD = 15.0
#: Seconds in which /health reports a hang.
SEEN = 12.0
#: Seconds in which the next request is answered.
RECOVERED = 15.0


@contextmanager
def observed_health(server: ServerProcess) -> Iterator[list[tuple[float, str]]]:
    """The states of /health with the times at which they began, while the block runs."""
    states: list[tuple[float, str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            try:
                status = ask(server.port, "GET", "/health").json()["status"]
            except OSError:
                status = "no answer"
            if not states or states[-1][1] != status:
                states.append((time.monotonic(), status))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield states
    finally:
        done.set()
        thread.join()


def answered(server: ServerProcess, since: float, record: Record) -> None:
    """The next request is answered within the bound."""
    reply = ask(server.port, "POST", CHAT, chat("<say>ok</say>"))
    assert reply.status == 200, reply.body
    record("next answer", time.monotonic() - since, RECOVERED, "s")


@pytest.mark.parametrize("text", ["<say>abc<hang></say>", "<stuck>"], ids=["a step", "the intake"])
def test_an_engine_that_hangs_is_replaced(text: str, record: Record) -> None:
    with fake(step=0.02) as server:
        engine, http, begun = server.engine, server.http, time.monotonic()
        with observed_health(server) as states, Connection(server.port) as connection:
            connection.request("POST", CHAT, chat(text, stream=True))
            reply = connection.read()
            told = time.monotonic()
            wait_for("the engine's end", lambda: not alive(engine))
            wait_for("health", lambda: ask(server.port, "GET", "/health/ready").status == 200)
            wait_for("its record", lambda: states[-1][1] == "ok")
        assert b"engine_died" in (reply.chunks[-1] if reply.chunks else reply.body)
        record("client told", told - begun, TOLD, "s")
        assert [state for _, state in states][:3] == ["ok", "stalled", "restarting"], states
        record("health says so", states[1][0] - begun, SEEN, "s")
        answered(server, told, record)
        assert server.http == http
        assert "the engine process hangs; it is replaced" in server.log
        assert "most recent call first" in server.log, "its stacks are in the log"


#: An HTTP process whose event loop is blocked by SIGUSR2, beside a real supervisor.
BLOCKING = """
import sys
from tailrace.observe import logs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor import Supervisor, child_process

logs.configure("supervisor", level="info", form="console")
body = '''
import asyncio, signal, time
from tailrace.server import process
def block():
    time.sleep(3600)
settle = process._reload_on_hang_up
def install(*arguments):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, block)
    settle(*arguments)
process._reload_on_hang_up = install
process.main()
'''
real = child_process.subprocess.Popen
def start(command, **options):
    changed = [command[0], "-c", body] if "tailrace.server.process" in command else command
    return real(changed, **options)
child_process.subprocess.Popen = start
settings = Settings(backend="fake", port=PORT)
sys.exit(Supervisor(settings, (ModelSpec(name="fake", path=None, settings=settings, at_start=True),)).run())
"""


def test_an_http_process_whose_loop_is_blocked_is_replaced(record: Record, tmp_path: Path) -> None:
    port = 18_000 + os.getpid() % 10_000
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", BLOCKING.replace("PORT", str(port))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        wait_for("readiness", lambda: _is_ready(port))
        children = _children(process.pid)
        begun = time.monotonic()
        for pid in children:
            os.kill(pid, signal.SIGUSR2)  # The engine ignores it.
        wait_for("the replacement", lambda: "the http process died" in log.read_text(encoding="utf-8"))
        record("replaced", time.monotonic() - begun, TOLD, "s")
        wait_for("readiness", lambda: _is_ready(port))
        record("next answer", time.monotonic() - begun, TOLD + RECOVERED, "s")
        assert len(set(children) & set(_children(process.pid))) == 1, "the engine stays"
    finally:
        process.kill()
        process.wait()


def _is_ready(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    try:
        return ask(port, "GET", "/health/ready").status == 200
    except OSError:
        return False


def _is_dead(pid: int) -> bool:
    return not alive(pid)


def _children(pid: int) -> list[int]:
    shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines()]
    return [int(own) for own, parent, state in lines if int(parent) == pid and not state.startswith("Z")]


def pids(server: ServerProcess) -> list[int]:
    return [server.pid, server.http, server.engine]


@pytest.mark.parametrize("stopped", ["all", "supervisor"])
def test_a_suspended_machine_kills_nothing_when_it_wakes_up(stopped: str) -> None:
    with fake(step=0.02) as server:
        before = pids(server)
        with Connection(server.port) as connection:
            connection.request("POST", CHAT, chat("<say>" + "x" * 100 + "</say>", stream=True))
            connection.read_head()
            victims = before if stopped == "all" else before[:1]
            for pid in victims:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(25.0)
            for pid in victims:
                os.kill(pid, signal.SIGCONT)
            assert b"[DONE]" in list(connection.chunks())[-1]
        time.sleep(3.0)
        assert pids(server) == before
        assert "hangs" not in server.log


def test_without_hang_seconds_nothing_is_replaced() -> None:
    with fake(step=0.02, hang_seconds="0") as server:
        before = pids(server)
        os.kill(server.engine, signal.SIGSTOP)
        time.sleep(15.0)
        assert ask(server.port, "GET", "/health").status == 200
        os.kill(server.engine, signal.SIGCONT)
        assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
        assert pids(server) == before


@pytest.mark.parametrize("lost", ["deleted", "full"])
def test_the_server_survives_the_loss_of_its_state_folder(lost: str, tmp_path: Path) -> None:
    if lost == "full":
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("a small disk needs the right to mount one")
    try:
        with serving("--backend", "fake", environment={"XDG_STATE_HOME": str(tmp_path)}) as server:
            if lost == "full":
                with pytest.raises(OSError, match="No space"):
                    (tmp_path / "fill").write_bytes(bytes(1 << 20))
            else:
                shutil.rmtree(tmp_path / "tailrace")
            for child in ("engine", "http", "engine"):
                victim = getattr(server, child)
                os.kill(victim, signal.SIGKILL)
                wait_for("its end", partial(_is_dead, victim))
                wait_for("readiness", lambda: _is_ready(server.port))
                assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
            assert "Traceback" not in server.log
    finally:
        if lost == "full":
            subprocess.run(["umount", "-l", str(tmp_path)], check=True)


#: Keys of the header whose values are numbers, and values that no model has.
HOSTILE = [
    ("llama.block_count", 0),
    ("llama.block_count", 1 << 31),
    ("llama.embedding_length", 0),
    ("llama.embedding_length", 1 << 31),
    ("llama.attention.head_count", 0),
    ("llama.attention.head_count_kv", 0),
    ("llama.attention.head_count_kv", (1 << 31) - 1),
    ("llama.rope.dimension_count", 3),
    ("llama.feed_forward_length", 0),
    ("llama.context_length", 0),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_a_hostile_header_ends_the_server_with_its_reason(key: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(with_header_value(locate_model("smollm2-135m").path.read_bytes(), key, value))
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("tailrace")), "serve", str(path), "--port", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 78, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert "llama.cpp" in last or "hostile.gguf" in last, ended.stderr


def with_header_value(model: bytes, key: str, value: int) -> bytes:
    """The file with another 32-bit number for this key."""
    name = struct.pack("<Q", len(key)) + key.encode()
    at = model.index(name) + len(name) + 4
    return model[:at] + struct.pack("<I", value) + model[at + 4 :]
