"""A device computes what doesn't need the CPU's results while the CPU computes, and results are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from placed_backend import free_status
from rpc_relay import GRAPH_COMPUTE, RpcRelay
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.operation_counts import operation_counts
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow
from tailrace.settings import Settings
from tailrace.worker_protocol.status import OperationCounts
from worker_process import WorkerProcess

_PROMPT = [3 + 7 * place % 200 for place in range(24)]
#: So many tokens that the CPU computes their experts for longer than the relay takes to see a request.
_LONG_PROMPT = [3 + 7 * place % 200 for place in range(200)]
#: Seconds for which a request waits for the CPU to compute meanwhile.
_HELD = 0.3
#: Models with shared experts, and how many layers have them.
_SHARED = {"tiny-deepseek2": 1, "tiny-qwen35moe": 0}


def model_of(name: str, folder: Path) -> Path:
    path = folder / f"{name}.gguf"
    write_model(path, name, SHAPES[name], byte_vocabulary(), "Q8_0")
    return path


@pytest.fixture
def relay(workers: tuple[WorkerProcess, WorkerProcess]) -> Iterator[RpcRelay]:
    found = RpcRelay(workers[0].endpoint)
    yield found
    found.close()


@contextmanager
def loaded(path: Path, worker: WorkerProcess, relay: RpcRelay, **rules: object) -> Iterator[LlamaBackend]:
    """The model with its layers on the worker, which it reaches through the relay. One thread computes, so that the
    relay has a CPU.
    """
    layers = {"layers": {f"0-{SHAPES[path.stem].layers - 1}": relay.endpoint}}
    settings = Settings(
        threads=1, ctx=256, parallel=4, devices=f"local,{relay.endpoint}", placement={**layers, **rules}
    )
    backend = create_llama(path, settings, workers={relay.endpoint: free_status(worker.endpoint)})
    if loader.status() != "on":
        backend.close()
        pytest.skip("this machine has no kernels")
    try:
        yield backend
    finally:
        backend.close()


def logits(backend: LlamaBackend) -> list[LogitsRow]:
    """Of a prompt's end, of the next token, and of one token of each of four sequences."""
    backend.reset()
    found = [*backend.decode(_PROMPT, list(range(24)), [0] * 24, [23]).copy()]
    found += [*backend.decode([40], [24], [0], [0]).copy()]
    return [*found, *backend.decode([40] * 4, [25, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3]).copy()]


@contextmanager
def in_order() -> Iterator[None]:
    library = loader.library()
    assert library is not None
    library.tailrace_kernels_compute_in_order(True)
    try:
        yield
    finally:
        library.tailrace_kernels_compute_in_order(False)


@pytest.mark.parametrize("name", _SHARED)
def test_shared_experts_are_computed_beside_routed_ones(
    workers: tuple[WorkerProcess, WorkerProcess], relay: RpcRelay, tmp_path: Path, name: str
) -> None:
    with loaded(model_of(name, tmp_path), workers[0], relay, tensors={"_exps": "local"}) as backend:
        before = loader.ahead_count()
        with in_order():
            expected = logits(backend)
        assert loader.ahead_count() == before
        found = logits(backend)
        # A pass of three in each layer of experts.
        assert loader.ahead_count() - before == 3 * (SHAPES[name].layers - _SHARED[name])
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        # The CPU's part is the kernels', with the sum of the experts' outputs.
        counts = operation_counts()
        logits(backend)
        after = operation_counts()
        layers = SHAPES[name].layers - _SHARED[name]
        products, before_them = after["expert products"], counts["expert products"]
        assert products == OperationCounts(before_them.repacked + 3 * 3 * layers, before_them.own, 0)
        assert after["weighted sums of experts"].own == counts["weighted sums of experts"].own + 3 * layers


def experts_computed() -> int:
    return operation_counts()["expert products"].repacked


def meanwhile(relay: RpcRelay, backend: LlamaBackend) -> list[bool]:
    """Compute a long prompt. For each graph that the worker is to compute: whether the CPU has computed experts while
    the worker hadn't got the graph yet.
    """
    seen: list[bool] = []

    def hold(command: int, size: int) -> None:
        if command == GRAPH_COMPUTE:
            before, deadline = experts_computed(), time.monotonic() + _HELD
            while experts_computed() == before and time.monotonic() < deadline:
                time.sleep(0.001)
            seen.append(experts_computed() > before)

    backend.reset()
    relay.before = hold
    backend.decode(_LONG_PROMPT, list(range(200)), [0] * 200, [199])
    relay.before = lambda command, size: None
    return seen


def test_the_worker_and_the_cpu_compute_at_the_same_time(
    workers: tuple[WorkerProcess, WorkerProcess], relay: RpcRelay, tmp_path: Path
) -> None:
    with loaded(model_of("tiny-qwen35moe", tmp_path), workers[0], relay, tensors={"_exps": "local"}) as backend:
        with in_order():
            assert not any(meanwhile(relay, backend))
        # Where the CPU is quick, a request is seen too late: one that is seen in time shows it.
        assert any(any(meanwhile(relay, backend)) for _ in range(10))


def test_attention_over_a_local_cache_is_the_cpus(
    workers: tuple[WorkerProcess, WorkerProcess], relay: RpcRelay, tmp_path: Path
) -> None:
    path = model_of("tiny-gemma3", tmp_path)
    one = create_llama(path, Settings(threads=2, ctx=256, parallel=4))
    expected = logits(one)
    one.close()
    with loaded(path, workers[0], relay, kv="local") as backend:
        own, upstream = loader.attention_counts()
        found = logits(backend)
        after = loader.attention_counts()
        assert after == (own + 3 * SHAPES["tiny-gemma3"].layers, upstream)
        assert backend.layout_policy.always_shared
        for row, other in zip(found, expected, strict=True):
            assert np.corrcoef(row, other)[0, 1] > 0.999


def sizes_of_graphs(relay: RpcRelay, compute: Callable[[], object]) -> list[int]:
    """Bytes of the graphs that the worker is sent."""
    sizes: list[int] = []
    relay.before = lambda command, size: sizes.append(size) if command == GRAPH_COMPUTE else None
    compute()
    return sizes


def test_a_split_is_sent_without_those_before_it(
    workers: tuple[WorkerProcess, WorkerProcess], relay: RpcRelay, tmp_path: Path
) -> None:
    with loaded(model_of("tiny-gemma3", tmp_path), workers[0], relay, tensors={"ffn_": "local"}) as backend:
        backend.decode([40], [0], [0], [0])
        sizes = sizes_of_graphs(relay, lambda: backend.decode([40], [1], [0], [0]))
        # The first graph is the first layer's attention, the last one the output. Those between them are alike.
        assert len(sizes) == SHAPES["tiny-gemma3"].layers + 1
        assert max(sizes[1:-1]) < 1.2 * min(sizes[1:-1])
