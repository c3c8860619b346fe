"""A worker that fails after the model is on it: it has no memory for buffers, or it fails at its first pass."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openai_wire import ask
from rpc_relay import GRAPH_COMPUTE, RpcRelay
from servers import PATIENCE, ServerProcess, serving
from worker_process import WorkerProcess

#: Bytes of a message with a pass of the starter model. Before the model is loaded, the link is measured with smaller
#: ones.
_PASS_BYTES = 80_000
#: Bytes that the worker gets after its start. Weights, KV cache and buffers of the starter model's 30 layers take
#: 200 MB there.
_MEMORY = 150 << 20


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    found = WorkerProcess("--kernels", "off")
    yield found
    found.close()


class Breaks:
    """Breaks the connection at the first ``count`` passes."""

    def __init__(self, worker: WorkerProcess, count: int) -> None:
        self.left = count
        self._lock = threading.Lock()
        self.relay = RpcRelay(worker.endpoint, self._before, with_status=True)

    def _before(self, command: int, size: int) -> None:
        with self._lock:
            if command == GRAPH_COMPUTE and size > _PASS_BYTES and self.left:
                self.left -= 1
                raise ConnectionAbortedError


def _answer(server: ServerProcess) -> str:
    body = {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 8, "temperature": 0}
    reply = ask(server.port, "POST", "/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    return str(reply.json()["choices"][0]["message"]["content"])


def _address_space(process: int) -> int:
    """Bytes of the process's addresses now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def test_a_worker_without_memory_for_buffers_gets_fewer_layers(worker: WorkerProcess) -> None:
    process = worker.process.pid
    resource.prlimit(process, resource.RLIMIT_AS, (_address_space(process) + _MEMORY,) * 2)
    flags = ("--ctx", "1024", "--kv-tokens", "4096", "--gpu-layers", "99", "--devices", f"local,{worker.endpoint}")
    with serving(*flags) as server:
        assert "a device had less memory than it reported" in server.log
        there = {each["name"]: each["layers"] for each in ask(server.port, "GET", "/stats").json()["devices"]}
        assert 0 < there[worker.endpoint] < 30
        assert _answer(server)


def test_a_first_pass_that_fails_ends_the_server_with_the_reason(worker: WorkerProcess) -> None:
    breaks = Breaks(worker, 1)
    flags = ("--ctx", "1024", "--gpu-layers", "15", "--devices", f"local,{breaks.relay.endpoint}")
    try:
        server = ServerProcess("--port", "0", *flags)
        try:
            assert server.process.wait(PATIENCE) == 78
            assert "the model can't be loaded" in server.log
            assert "Remote RPC server crashed" in server.log
        finally:
            server.close()
        assert breaks.left == 0
        # The worker is free, and computes for the next server.
        with serving(*flags) as after:
            assert _answer(after)
    finally:
        breaks.relay.close()
