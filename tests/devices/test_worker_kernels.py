"""A worker whose device is its CPU computes with the kernels, on repacked weights, and frees them with the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from architectures import tiny_experts, tiny_model
from placed_backend import free_status, load_placed
from servers import wait_for
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.engine.kernels import loader
from tailrace.worker_protocol.status import OperationCounts, WorkerStatus
from worker_process import WorkerProcess

if loader.status() not in ("on", "not loaded"):
    pytest.skip("this machine has no kernels", allow_module_level=True)

_PROMPT = [3 + 7 * place % 200 for place in range(48)]
_NONE = OperationCounts()


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    found = WorkerProcess()
    yield found
    found.close()


def everything_on(worker: WorkerProcess) -> dict[str, object]:
    """The starter model's layers and output."""
    return {"layers": {"0-29": worker.endpoint}, "output": worker.endpoint}


def use(backend: LlamaBackend) -> None:
    """A prompt, a token of it, and a token of each of four sequences."""
    backend.decode(_PROMPT, list(range(48)), [0] * 48, [47])
    backend.decode([40], [48], [0], [0])
    backend.decode([40] * 4, [49, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3])


def report(worker: WorkerProcess) -> WorkerStatus:
    """What the worker reports after all that it was asked to compute."""
    link = WorkerLink(worker.endpoint)
    try:
        link.next_status()
        return link.next_status()
    finally:
        link.close()


def computed(worker: WorkerProcess, backend: LlamaBackend) -> Mapping[str, OperationCounts]:
    before = report(worker).operations
    use(backend)
    after = report(worker).operations
    return {
        name: OperationCounts(*(getattr(found, each) - getattr(before.get(name, _NONE), each) for each in _FIELDS))
        for name, found in after.items()
    }


_FIELDS = ("repacked", "own", "upstream")


def test_a_dense_model_is_computed_repacked(worker: WorkerProcess) -> None:
    backend = load_placed([worker.endpoint], placement=everything_on(worker), ctx=256)
    found = computed(worker, backend)
    # Seven matrices in each of 30 layers and the output, three times.
    assert found["dense products"] == OperationCounts(repacked=3 * (7 * 30 + 1))
    assert found["attention"] == OperationCounts(own=3 * 30)
    weights = backend.placement.devices[1].weights_bytes if backend.placement is not None else 0
    # The embedding is the output, too, and is counted with this machine's.
    assert report(worker).repacked_bytes > 0.9 * weights > 0
    backend.close()
    wait_for("the copies to be freed", lambda: free_status(worker.endpoint).repacked_bytes == 0)


def test_experts_are_computed_repacked_and_fused(worker: WorkerProcess, tmp_path: Path) -> None:
    path = tiny_experts(tmp_path, dense="Q8_0", experts="Q4_K")
    rules = {"layers": {"0-1": worker.endpoint}, "output": worker.endpoint}
    backend = load_placed([worker.endpoint], model=path, placement=rules, ctx=256)
    found = computed(worker, backend)
    backend.close()
    # A layer has three products by expert, of which two are one operation with the gate, and a router in 32 bits.
    assert found["expert products"] == OperationCounts(repacked=3 * 2 * 3)
    assert found["gated expert products"] == OperationCounts(own=3 * 2)
    assert found["weighted sums of experts"] == OperationCounts(own=3 * 2)
    assert found["dense products"] == OperationCounts(repacked=3 * (4 * 2 + 1), upstream=3 * 2)
    assert found["attention"] == OperationCounts(own=3 * 2)


def test_experts_alone_are_computed_repacked(worker: WorkerProcess, tmp_path: Path) -> None:
    path = tiny_experts(tmp_path, dense="Q8_0", experts="Q4_0")
    rules = {"layers": {"0-1": "local"}, "tensors": {"_exps": worker.endpoint}}
    backend = load_placed([worker.endpoint], model=path, placement=rules, ctx=256)
    found = computed(worker, backend)
    backend.close()
    assert found["expert products"] == OperationCounts(repacked=3 * 2 * 3)
    assert "attention" not in found


@pytest.mark.parametrize("kind", ["delta-net", "state-space"])
def test_recurrent_layers_are_computed_by_the_kernels(worker: WorkerProcess, tmp_path: Path, kind: str) -> None:
    backend = load_placed([worker.endpoint], model=tiny_model(kind, tmp_path), local=False)
    found = computed(worker, backend)
    backend.close()
    operation = "gated_delta_net" if kind == "delta-net" else "ssm_scan"
    assert found[operation].own > 0
    assert found[operation].upstream == 0


def test_weights_that_the_worker_has_no_memory_for_stay_as_sent() -> None:
    small = WorkerProcess("--memory-mb", "150")
    try:
        backend = load_placed([small.endpoint], placement={"layers": {"0-29": small.endpoint}}, ctx=256)
        found = computed(small, backend)["dense products"]
        backend.close()
        assert found.repacked + found.own == 3 * 7 * 30
        assert found.own > 0
        assert found.upstream == 0
    finally:
        small.close()


def test_a_worker_without_kernels_reports_none() -> None:
    plain = WorkerProcess("--kernels", "off")
    try:
        backend = load_placed([plain.endpoint], placement=everything_on(plain), ctx=256)
        use(backend)
        backend.close()
        found = report(plain)
        assert found.operations == {}
        assert found.repacked_bytes == 0
    finally:
        plain.close()
