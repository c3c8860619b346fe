"""The processes of a cluster without Ray: a replica's and an ingress's, their start, their ties and their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from servers import alive, wait_for
from tailrace.cluster.directory_book import ReplicaRecord, Table
from tailrace.cluster.ingress.orders import IngressStart, SetModels
from tailrace.cluster.ingress_process import IngressProcess
from tailrace.cluster.replica_process import ReplicaEnded, ReplicaOrders, ReplicaProcess
from tailrace.errors import ConfigurationError
from tailrace.settings import Settings

_SECRET = "a-secret-of-this-test-alone"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings and records stay out of it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def _orders(path: str = "x") -> ReplicaOrders:
    return ReplicaOrders(
        model="m",
        settings={"backend": "fake" if path == "x" else "llama", "api_key": "key-of-this-test"},
        section={"model": path},
        host="127.0.0.1",
        secret=_SECRET,
        drain_seconds=5,
    )


def _get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_replica_serves_hides_its_secrets_and_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_PORT", "1")  # A node's own settings don't hold for replicas.
    process = ReplicaProcess(_orders())
    port = process.wait_ready()

    assert '"ok"' in _get(port, "/health/ready")
    shown = Path(f"/proc/{process.pid}/cmdline").read_text() + Path(f"/proc/{process.pid}/environ").read_text()
    assert _SECRET not in shown
    assert "key-of-this-test" not in shown
    process.drain()
    assert process.has_ended
    assert not alive(process.pid)


def test_replica_that_cannot_serve_says_why() -> None:
    process = ReplicaProcess(_orders("/nothing/here.gguf"))

    with pytest.raises(ReplicaEnded, match=r"/nothing/here\.gguf"):
        process.wait_ready()


def test_replica_ends_with_the_process_that_started_it() -> None:
    program = (
        "import msgspec, sys; from tailrace.cluster.replica_process import *\n"
        "process = ReplicaProcess(msgspec.json.decode(sys.argv[1], type=ReplicaOrders))\n"
        "print(process.wait_ready(), process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, msgspec.json.encode(_orders()).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    _, pid = map(int, parent.stdout.readline().split())
    assert alive(pid)

    parent.kill()
    parent.wait()

    wait_for("the replica's end", lambda: not alive(pid))
    parent.stdin.close()
    parent.stdout.close()


@pytest.fixture
def ingress() -> Iterator[IngressProcess]:
    settings = Settings(port=0, cluster_secret=_SECRET, drain_seconds=1)
    process = IngressProcess(IngressStart(settings=settings, linger_seconds=60), SetModels(()))
    try:
        wait_for("the ingress", lambda: process.port != 0)
        yield process
    finally:
        process.stop()


def test_killed_ingress_is_started_again_and_told_of_all_replicas(ingress: IngressProcess) -> None:
    replica = ReplicaProcess(_orders())
    record = ReplicaRecord(
        id="r",
        model="m",
        node="127.0.0.1",
        host="127.0.0.1",
        port=replica.wait_ready(),
        pid=replica.pid,
        phase="ready",
    )
    ingress.update(Table(complete=True, replicas=(record,)))
    first, port = ingress.pid, ingress.port
    wait_for("a ready replica", lambda: '"replicas_ready":1' in _get(port, "/health"))

    os.kill(first, signal.SIGKILL)

    wait_for("another ingress", lambda: ingress.pid != first and ingress.port != 0)
    wait_for("a ready replica", lambda: '"replicas_ready":1' in _get(ingress.port, "/health"))
    replica.drain()


def test_next_ingress_takes_the_address_over_without_a_failed_request(free_port: int) -> None:
    settings = Settings(port=free_port, cluster_secret=_SECRET, drain_seconds=1)
    start = IngressStart(settings=settings, linger_seconds=60)
    first = IngressProcess(start, SetModels(()))
    wait_for("the first ingress", lambda: first.port != 0)
    answers: list[bool] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append("no replica" in _get(free_port, "/health"))

    client = threading.Thread(target=ask)
    client.start()
    second = IngressProcess(start, SetModels(()))
    wait_for("the second ingress", lambda: second.port != 0)
    old = first.pid
    first._stopping.set()  # As where its actor has died: it isn't started again, and only it has the socket.
    first._socket.close()

    second.take_over()

    wait_for("the end of the first", lambda: not alive(old))
    done.set()
    client.join()
    assert len(answers) > 10
    assert all(answers)
    assert alive(second.pid)
    first.stop()
    second.stop()


def test_address_of_another_program_is_refused(free_port: int) -> None:
    start = IngressStart(settings=Settings(port=free_port, cluster_secret=_SECRET))
    other = socket.create_server(("127.0.0.1", free_port), reuse_port=True)

    with other, pytest.raises(ConfigurationError, match=f"127.0.0.1:{free_port}"):
        IngressProcess(start, SetModels(()))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
