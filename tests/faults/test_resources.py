"""Resources that run out: disk, file descriptors, places in the queue, connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_figures import Record
from observed_requests import DIALECTS, Outcome, problems, send, send_all
from openai_wire import ask
from server_memory import memory_bytes, open_files, settled
from servers import alive, fake, serving, wait_for

MEMORY = 1.05
#: A KV cache that has its size from the start, and no prefix states in host memory: what grows then isn't a cache.
MODEL = ("--ctx", "1024", "--parallel", "8", "--kv-tokens", "4096", "--keep-mb", "0")


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    """A file system of one megabyte. Needs root, or a kernel that lets users mount in a namespace of their own."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "fill").open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"\0" * 65_536)


def answered(outcomes: list[Outcome]) -> bool:
    return all(outcome.accepted and outcome.complete and not outcome.failed for outcome in outcomes)


def test_the_disk_is_full(tmp_path: Path) -> None:
    """Replies go on, children are replaced, and what can't be stored is said instead of promised."""
    with tiny_disk(tmp_path / "disk") as disk:
        environment = {name: str(disk) for name in ("TMPDIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")}
        with serving("--ctx", "1024", environment=environment) as server:
            fill(disk)
            assert answered(asyncio.run(send_all(server.port, 12, max_tokens=8)))
            for child in ("engine", "server", "engine"):
                pid = server.children(child)[0]
                os.kill(pid, signal.SIGKILL)
                wait_for("the child's end", lambda pid=pid: not alive(pid))  # type: ignore[misc]  # no type for the default
                wait_for("health", lambda: _healthy(server.port))
                assert answered(asyncio.run(send_all(server.port, 6, max_tokens=4)))
            for fields in ({"store": True}, {}):
                reply = ask(server.port, "POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 16, **fields})
                if reply.status == 200 and reply.json()["store"]:
                    assert ask(server.port, "GET", f"/v1/responses/{reply.json()['id']}").status == 200
                else:
                    assert reply.status == (503 if fields else 200)
            assert server.stop() == 0


def test_the_temporary_folder_is_deleted() -> None:
    with serving("--ctx", "1024") as server:
        for entry in server.temporary.iterdir():
            if entry.is_dir() and entry.name.startswith("tailrace-"):
                subprocess.run(["rm", "-rf", str(entry)], check=True)
        for pid in (server.engine, server.http):
            os.kill(pid, signal.SIGKILL)
            wait_for("the child's end", lambda pid=pid: not alive(pid))  # type: ignore[misc]  # no type for the default
            wait_for("health", lambda: _healthy(server.port))
            assert answered(asyncio.run(send_all(server.port, 6, max_tokens=4)))


def _healthy(port: int) -> bool:
    try:
        return ask(port, "GET", "/health").status == 200
    except OSError:
        return False


def test_few_file_descriptors_and_many_connections() -> None:
    """With a hard limit of 256 files, idle connections can't keep health checks and clients out for long."""
    with serving("--ctx", "1024", prefix=["prlimit", "--nofile=256:256"]) as server:
        idle = [_connect(server.port) for _ in range(400)]
        try:
            wait_for("health beside 400 idle connections", lambda: _healthy(server.port))
            assert answered(asyncio.run(send_all(server.port, 6, max_tokens=4)))
        finally:
            for sock in idle:
                sock.close()
        assert answered(asyncio.run(send_all(server.port, 6, max_tokens=4)))


def _connect(port: int) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(30.0)
    sock.connect(("127.0.0.1", port))
    return sock


def test_two_thousand_idle_connections(record: Record) -> None:
    with serving(*MODEL) as server:
        assert answered(asyncio.run(send_all(server.port, 6, max_tokens=8)))
        before, files = memory_bytes(server), open_files(server.http)
        idle = [_connect(server.port) for _ in range(2000)]
        try:
            assert answered(asyncio.run(send_all(server.port, 12, max_tokens=8)))
            assert _healthy(server.port)
        finally:
            for sock in idle:
                sock.close()
        assert settled(lambda: open_files(server.http), files) <= files
        record("memory", settled(lambda: memory_bytes(server), before * MEMORY) / before, MEMORY, "x")


def test_a_thousand_clients_on_a_queue_of_64(record: Record) -> None:
    """Everybody gets an answer: a reply, or a 429 before the stream opens that says when to come back."""
    with serving(*MODEL, "--queue-requests", "64") as server:
        for _ in range(2):
            assert answered(asyncio.run(send_all(server.port, 16, max_tokens=16)))
        before, files = memory_bytes(server), open_files(server.http)
        begun = time.monotonic()
        outcomes = asyncio.run(send_all(server.port, 1000, max_tokens=16))
        took = time.monotonic() - begun
        assert not problems(outcomes)
        accepted = [outcome for outcome in outcomes if outcome.accepted]
        refused = [outcome for outcome in outcomes if not outcome.accepted]
        assert {outcome.status for outcome in refused} == {429}
        assert len(accepted) >= 64
        assert not [outcome for outcome in accepted if outcome.failed]
        record("refusals: longest wait", max(outcome.ended - outcome.sent for outcome in refused), took, "s")
        record("Retry-After: longest", max(float(outcome.headers["retry-after"]) for outcome in refused), 120.0, "s")
        assert answered(asyncio.run(send_all(server.port, 6, max_tokens=4)))
        assert settled(lambda: open_files(server.http), files) <= files
        record("memory", settled(lambda: memory_bytes(server), before * MEMORY) / before, MEMORY, "x")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_has_each_dialects_refusal(dialect: str, stream: bool) -> None:
    with fake("--aliases", "*", "--parallel", "1", "--queue-requests", "2", step=0.05) as server:

        async def crowd() -> list[Outcome]:
            return await asyncio.gather(
                *(send(server.port, dialect, "<say>abcdefgh</say>", 8, stream=stream) for _ in range(12))  # type: ignore[arg-type]  # a literal
            )

        outcomes = asyncio.run(crowd())
        assert not problems(outcomes)
        statuses = sorted(outcome.status or 0 for outcome in outcomes)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 3
