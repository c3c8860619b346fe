"""Clients that hold connections, memory and the shutdown of a server: what it holds for them, and for how long.

The scripted backend serves: none of this is about a model.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_figures import Record
from openai_wire import Connection, ask, chat, metric
from server_memory import open_files, settled
from servers import ServerProcess, fake, wait_for

CHAT = "/v1/chat/completions"
MB = 1_000_000


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    """Closes what a test has entered."""
    with contextlib.ExitStack() as stack:
        yield stack


def memory_mb(server: ServerProcess) -> float:
    """Resident memory of the HTTP process."""
    pages = int(Path(f"/proc/{server.http}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / MB


def connections(server: ServerProcess) -> int:
    """How many sockets the HTTP process has beyond those of an idle one."""
    return open_files(server.http)


def health_seconds(server: ServerProcess) -> float:
    began = time.monotonic()
    assert ask(server.port, "GET", "/health").status == 200
    return time.monotonic() - began


def wait_until_gone(server: ServerProcess, files: int, seconds: float) -> float:
    """Seconds until the process has no more than ``files`` open."""
    began = time.monotonic()
    assert settled(lambda: connections(server), files, seconds) <= files
    return time.monotonic() - began


def answers(sockets: list[socket.socket]) -> Counter[str]:
    """What the server has sent to each: a status, or "" where it has closed without one."""
    found = Counter[str]()
    for sock in sockets:
        sock.settimeout(1.0)
        try:
            found[sock.recv(12)[9:].decode()] += 1
        except TimeoutError:
            found["nothing"] += 1
        except OSError:
            found["reset"] += 1
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_readers_that_never_read_are_reset(held: contextlib.ExitStack, record: Record, stream: bool) -> None:
    """128 streams, or 16 replies of some MB each that are written at once."""
    clients = 128 if stream else 16
    tokens = 3_900 if stream else 3_000
    with fake("--ctx", "300000", "--parallel", "128", "--queue-requests", "200", step=0.002) as server:
        assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
        before, files = memory_mb(server), connections(server)
        silent = [held.enter_context(Connection(server.port, receive_buffer=4096)) for _ in range(clients)]
        body = chat("<say>" + "y" * tokens + "</say>", stream=stream, logprobs=True, top_logprobs=20)
        for connection in silent:
            connection.request("POST", CHAT, body)
        highest, slowest = 0.0, 0.0
        wait_for("a reply to begin", lambda: metric(server.port, "tailrace:engine_decode_tokens_total") > 0)
        deadline = time.monotonic() + 180.0
        while connections(server) > files and time.monotonic() < deadline:
            highest = max(highest, memory_mb(server))
            slowest = max(slowest, health_seconds(server))
            time.sleep(0.5)
        record("connections left", connections(server) - files, 0, "")
        # A whole reply is collected as objects before it is written.
        record("memory for clients that don't read", highest - before, 64 * 1.5 + 60 if stream else 300, "MB")
        record("memory afterwards", settled(lambda: int(memory_mb(server)), before + 15) - before, 15, "MB")
        record("health, slowest", slowest, 5.0, "s")


def test_slow_heads_and_silent_sockets_are_closed(held: contextlib.ExitStack, record: Record) -> None:
    with fake(header_seconds="3") as server:
        files = connections(server)
        sockets = [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(2_100)]
        for number, sock in enumerate(sockets):
            if number % 2:
                sock.sendall(b"GET /health HTTP/1.1\r\nhost: loc")
        record("health", health_seconds(server), 2.0, "s")
        record("seconds until all are closed", wait_until_gone(server, files, 30.0), 15.0, "s")
        assert answers(sockets) == {"408": 1_050, "": 1_050}


def test_bodies_share_their_memory_and_large_ones_wait(held: contextlib.ExitStack, record: Record) -> None:
    """60 bodies of 31 MB, the last half megabyte of which never comes."""
    with fake("--body-memory-mb", "100", body_seconds="5") as server:
        before, files = memory_mb(server), connections(server)
        sockets: list[socket.socket] = []

        def send() -> None:
            sock = held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            sockets.append(sock)
            try:
                sock.sendall(b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 31500000\r\n\r\n" % CHAT.encode())
                for _ in range(31):
                    sock.sendall(b"x" * MB)
            except OSError:
                pass  # It is refused while it writes.

        threads = [threading.Thread(target=send, daemon=True) for _ in range(60)]
        for thread in threads:
            thread.start()
        highest, slowest = 0.0, 0.0
        began = time.monotonic()
        while (time.monotonic() - began < 3.0 or connections(server) > files) and time.monotonic() - began < 120.0:
            highest = max(highest, memory_mb(server))
            asked = time.monotonic()
            assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.5)
        record("memory for bodies", highest - before, 100 + 32 + 60 * 0.4 + 32, "MB")
        record("a small request beside them, slowest", slowest, 5.0, "s")
        record("connections left", connections(server) - files, 0, "")
        record("memory afterwards", settled(lambda: int(memory_mb(server)), before + 10) - before, 10, "MB")
        for thread in threads:
            thread.join(30.0)
        found = answers(sockets)
        assert set(found) <= {"503", "408", "reset"}, found


def test_bodies_that_stop_or_drip_get_a_408(held: contextlib.ExitStack, record: Record) -> None:
    head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n"
    with fake(body_seconds="2") as server:
        stopped = [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(50)]
        dripping = held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        for sock in (*stopped, dripping):
            sock.sendall(head + b"{")
        began = time.monotonic()
        dripping.settimeout(0.2)
        reply = b""
        while not reply and time.monotonic() - began < 30.0:
            dripping.sendall(b" ")
            try:
                reply = dripping.recv(65_536)
            except TimeoutError:
                pass
        record("seconds until the dripping one is refused", time.monotonic() - began, 10.0, "s")
        dripping.settimeout(20.0)
        while more := dripping.recv(65_536):
            reply += more
        assert reply.startswith(b"HTTP/1.1 408"), reply
        error = json.loads(reply.partition(b"\r\n\r\n")[2])
        assert error["type"] == "error", "the dialect's own form"
        assert answers(stopped) == {"408": 50}


def test_a_process_without_files_to_open_closes_idle_connections(held: contextlib.ExitStack, record: Record) -> None:
    """Its limit is lowered while it runs, so that it runs out below its own max."""
    if not hasattr(resource, "prlimit"):
        pytest.fail("the limit of another process is set by Linux' prlimit")
    with fake() as server:
        resource.prlimit(server.http, resource.RLIMIT_NOFILE, (open_files(server.http) + 40, 20_000))
        idle = [held.enter_context(Connection(server.port)) for _ in range(400)]
        for connection in idle:
            try:
                connection.request("GET", "/health")
            except OSError:
                pass  # It has been closed.
        slowest = max(health_seconds(server) for _ in range(5))
        record("health without files, slowest", slowest, 10.0, "s")
        assert "no file left to open" in server.log
        assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200


def test_the_soft_limit_of_files_is_raised(held: contextlib.ExitStack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1_024:
        pytest.fail(f"this test needs a hard limit of 1,024 files; it is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with fake() as server:
            for pid in (server.pid, server.http, server.engine):
                assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] > 256
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            idle = [held.enter_context(Connection(server.port)) for _ in range(400)]
            for connection in idle:
                connection.request("GET", "/health")
                assert connection.read().status == 200
            assert ask(server.port, "GET", "/health").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stopping_server_ends_in_time_whatever_clients_do(held: contextlib.ExitStack, record: Record) -> None:
    """Streams that aren't read, heads and bodies that don't come, and idle connections."""
    with fake("--drain-seconds", "2", "--ctx", "300000", step=0.01) as server:
        clients = [held.enter_context(Connection(server.port, receive_buffer=4096)) for _ in range(60)]
        body = chat("<say>" + "y" * 20_000 + "</say>", stream=True, logprobs=True, top_logprobs=20)
        for number, connection in enumerate(clients):
            if number % 4 == 0:
                connection.request("POST", CHAT, body)
            elif number % 4 == 1:
                connection.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n{")
            elif number % 4 == 2:
                connection.send(b"GET /health HT")
        wait_for("streams to run", lambda: metric(server.port, "vllm:num_requests_running") > 0)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(60.0) == 0
        record("seconds from SIGTERM to the end", time.monotonic() - began, 2 + 3 + 3, "s")
        assert "Traceback" not in server.log
