"""A model that is divided between this process and a real worker. ``make test-devices`` has every other placement."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from loop_replies import Replies
from placed_backend import load_placed
from servers import wait_for
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.devices.rpc_greeting import check_rpc_port
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.kernels import loader
from worker_process import WorkerProcess

#: Bytes of the length before each answer in llama.cpp's RPC protocol.
_LENGTH = 8


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    found = WorkerProcess()
    yield found
    found.close()


@pytest.fixture(scope="module")
def divided(worker: WorkerProcess) -> Iterator[LlamaBackend]:
    """The starter model, whose last ten layers and output are on the worker."""
    placement = {"layers": {"0-19": "local", "20-29": worker.endpoint}, "output": worker.endpoint}
    backend = load_placed([worker.endpoint], placement=placement, ctx=512)
    yield backend
    backend.close()


def test_a_model_is_divided_between_this_process_and_a_worker(divided: LlamaBackend) -> None:
    report = divided.placement
    assert report is not None
    assert report.is_known
    assert report.differences == ()
    assert [each.layers for each in report.devices] == [20, 10]
    if loader.status() == "on":
        assert divided.repacked_bytes >= report.devices[0].weights_bytes * 0.9
    replies = Replies(divided)
    replies.ask(1, "Name a river.", max_tokens=8)
    replies.finish()
    assert set(replies.finished) == {1}


def test_a_worker_offers_the_memory_that_can_be_allocated(worker: WorkerProcess) -> None:
    """llama.cpp tells all memory of a CPU as free, and an engine that took it would end the worker."""
    link = WorkerLink(worker.endpoint)
    link.close()
    (cpu,) = link.status.devices
    assert 0 < cpu.free < cpu.total


def test_an_engine_that_ends_is_no_error_in_the_workers_log() -> None:
    with contextlib.closing(WorkerProcess()) as other:
        address, _, port = other.endpoint.partition(":")
        check_rpc_port(address, int(port))
        load_placed([other.endpoint], ctx=512).close()
        wait_for("the engine's end", lambda: "engine disconnected" in other.log)
        assert "recv failed" not in other.log
        assert "[error]" not in other.log


def test_a_worker_s_figures_and_the_link_s_bytes(worker: WorkerProcess, divided: LlamaBackend) -> None:
    link = WorkerLink(worker.endpoint)
    try:
        links = WorkerLinks([link])
        replies = Replies(divided, worker_links=links)
        replies.ask(2, "Name a mountain.", max_tokens=12)
        replies.finish()
        while not link.next_status().hardware or link.status.sending_seconds is None:
            assert sys.platform == "linux"
        heartbeat = replies.loop.heartbeat()
        (found,) = heartbeat.workers
    finally:
        link.close()
    assert found.worker == worker.endpoint
    (cpu,) = [each for each in found.devices if each.device == "cpu"]
    assert cpu.memory is not None
    assert cpu.free is not None
    assert 0 < cpu.free < cpu.memory
    assert found.link is not None
    load, prompt, decode = (found.link.traffic[use] for use in ("load", "prompt", "decode"))
    assert divided.placement is not None
    assert load.sent > divided.placement.devices[1].weights_bytes
    # The first token is of the prompt's step. Each step gets a row of logits, and sends the last layer's row.
    assert (prompt.steps, decode.steps) == (1, heartbeat.counters.steps - 1)
    assert decode.steps > 0
    row = 4 * len(divided.vocabulary) + _LENGTH
    assert (prompt.received, decode.received) == (row, decode.steps * row)
    width = 4 * divided.info.embedding_width
    assert decode.sent > decode.steps * width
    assert prompt.sent > len(replies.prompts[2]) * width
    assert found.link.round_trip > 0
