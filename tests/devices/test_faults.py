"""Workers that die and hang under a server: requests end with an error, and the engine waits for the worker."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.harness.slow_link import SlowLink
from openai_wire import ask
from servers import PATIENCE, ServerProcess, serving, wait_for
from worker_process import WorkerProcess

#: Seconds in which a client knows that the worker of its reply is lost.
LOST_SECONDS = 5.0


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    found = WorkerProcess()
    yield found
    found.close()


def ready(server: ServerProcess) -> bool:
    return ask(server.port, "GET", "/health/ready").status == 200


def answer(server: ServerProcess) -> str:
    body = {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 8, "temperature": 0}
    reply = ask(server.port, "POST", "/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    return str(reply.json()["choices"][0]["message"]["content"])


class LongReply(threading.Thread):
    """A stream that would go on for minutes. ``begun`` is set with its first text."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self._port = server.port
        self.begun = threading.Event()
        self.last: dict[str, Any] = {}
        self.ended = 0.0

    def run(self) -> None:
        body = {
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": 1500,
            "stream": True,
            "logit_bias": {"2": -100},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        with connection.getresponse() as response:
            for line in response:
                if line.startswith(b"data: {"):
                    self.last = json.loads(line.removeprefix(b"data: "))
                    if "choices" in self.last and self.last["choices"][0]["delta"].get("content"):
                        self.begun.set()
        self.ended = time.monotonic()
        connection.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_ends_the_requests_and_is_waited_for(worker: WorkerProcess, fault: signal.Signals) -> None:
    with serving("--ctx", "2048", "--gpu-layers", "15", "--devices", f"local,{worker.endpoint}") as server:
        before = answer(server)
        stats = ask(server.port, "GET", "/stats").json()
        assert [each["name"] for each in stats["devices"]] == ["local", worker.endpoint]
        assert sum(each["layers"] for each in stats["devices"]) == 30
        assert stats["placement_differences"] == []
        reply = LongReply(server)
        reply.start()
        assert reply.begun.wait(PATIENCE)
        begun = time.monotonic()
        worker.send(fault)
        reply.join()
        assert reply.ended - begun < LOST_SECONDS
        assert reply.last["error"]["code"] == "engine_died"
        wait_for("the engine to wait", lambda: "the engine waits for a worker" in server.log)
        wait_for("the reason", lambda: b"waits for a worker" in ask(server.port, "GET", "/health/ready").body)
        assert not ready(server)
        worker.close() if fault == signal.SIGKILL else worker.send(signal.SIGCONT)
        replacement = WorkerProcess(listen=worker.endpoint) if fault == signal.SIGKILL else None
        try:
            wait_for("the server to be ready", lambda: ready(server))
            assert answer(server) == before
        finally:
            if replacement is not None:
                replacement.close()


def test_a_server_without_its_worker_says_so_and_ends() -> None:
    server = ServerProcess("--port", "0", "--devices", "127.0.0.1:1")
    try:
        assert server.process.wait(60.0) == 78
        assert "no worker answers at 127.0.0.1:1" in server.log
        assert "tailrace worker --listen 127.0.0.1:1" in server.log
    finally:
        server.close()


def test_a_worker_serves_one_engine_and_says_so_to_the_next(worker: WorkerProcess) -> None:
    with serving("--ctx", "1024", "--devices", worker.endpoint):
        second = ServerProcess("--port", "0", "--devices", worker.endpoint)
        try:
            assert second.process.wait(60.0) == 78
            assert "is in use by " in second.log
        finally:
            second.close()
    assert "engine connected" in worker.log


def test_of_two_engines_that_start_at_once_one_gets_the_worker(worker: WorkerProcess) -> None:
    servers = [ServerProcess("--port", "0", "--ctx", "1024", "--devices", worker.endpoint) for _ in range(2)]
    try:
        wait_for("one of them to end", lambda: any(each.process.poll() is not None for each in servers))
        refused, served = sorted(servers, key=lambda each: each.process.poll() is None)
        assert refused.process.wait() == 78
        assert "and it has one engine at a time" in refused.log
        served.wait_ready()
        answer(served)
    finally:
        for each in servers:
            each.close()
    # The worker is free again for the next one.
    with serving("--ctx", "1024", "--devices", worker.endpoint) as third:
        answer(third)


def test_a_network_that_was_cut_leaves_the_worker_to_the_next_engine(worker: WorkerProcess) -> None:
    """Both ends still have their connections when the engine's process has ended: the worker must end its own."""
    link = SlowLink(worker.endpoint)
    try:
        with serving("--ctx", "2048", "--gpu-layers", "15", "--devices", f"local,{link.endpoint}") as server:
            before = answer(server)
            reply = LongReply(server)
            reply.start()
            assert reply.begun.wait(PATIENCE)
            begun = time.monotonic()
            link.cut()
            reply.join()
            assert reply.ended - begun < LOST_SECONDS
            assert reply.last["error"]["code"] == "engine_died"
            wait_for("the worker to give the engine up", lambda: "the engine is gone" in worker.log)
            link.mend()
            wait_for("the server to be ready", lambda: ready(server))
            assert answer(server) == before
    finally:
        link.close()


def test_a_worker_ends_at_once(worker: WorkerProcess) -> None:
    worker.send(signal.SIGTERM)
    assert worker.process.wait(5.0) == 0
