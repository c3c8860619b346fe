"""Every kind of placement: llama.cpp has put each tensor where it was planned, and the results are one process's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architectures import tiny_experts
from loop_replies import Replies
from placed_backend import load_placed
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.backends.llama.kernel_assignment import OWN_REPACKED, tensor_bytes
from tailrace.engine.kernels import loader
from tailrace.errors import ConfigurationError
from tailrace.settings import Settings
from teacher_forcing import shortfalls
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]

#: See ``process/test_engine.py``: what rounding makes of a lost token's lead.
NOISE = 0.6
LAYERS = 30
_QUESTIONS = ("Name three rivers of Europe.", "Write about the sea in winter.")


def rules(kind: str, first: str, second: str) -> dict[str, Any]:
    """The placement of this kind on two workers."""
    kinds: dict[str, dict[str, Any]] = {
        "all": {"layers": {"0-29": first}},
        "none": {"layers": {"0-29": "local"}},
        "by layer": {"layers": {"10-29": first}},
        "a single layer": {"layers": {"29": first}},
        "two workers": {"layers": {"8-17": first, "18-29": second}},
        "the other order": {"layers": {"0-9": second, "10-29": first}},
        "feed-forward apart": {"layers": {"0-29": first}, "tensors": {"ffn_": "local"}},
        "feed-forward on another worker": {"layers": {"0-29": first}, "tensors": {r"ffn_(up|down)": second}},
        "KV apart": {"layers": {"0-29": first}, "kv": "local"},
        "output apart": {"layers": {"0-29": first}, "output": "local"},
        "tensors alone": {"layers": {"0-29": "local"}, "tensors": {r"blk\.[0-9]\.ffn_": first}},
    }
    return kinds[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "all",
        "none",
        "by layer",
        "a single layer",
        "two workers",
        "the other order",
        "feed-forward apart",
        "feed-forward on another worker",
        "KV apart",
        "output apart",
        "tensors alone",
    ],
)
def test_each_tensor_is_where_the_rules_put_it(workers: Workers, alone: LlamaBackend, kind: str) -> None:
    endpoints = [each.endpoint for each in workers]
    placement = rules(kind, *endpoints)
    backend = load_placed(endpoints, placement=placement)
    try:
        report = backend.placement
        assert report is not None
        assert report.is_known
        assert report.differences == ()
        assert sum(each.layers for each in report.devices) == LAYERS
        check_kernels(backend)
        replies = Replies(backend)
        for number, question in enumerate(_QUESTIONS):
            replies.ask(number, question, max_tokens=24)
        replies.finish()
        assert set(replies.finished) == {0, 1}
        check_replies(alone, replies)
    finally:
        backend.close()


def check_kernels(backend: LlamaBackend) -> None:
    """Own kernels compute the CPU's part, repacked, and have repacked nothing else."""
    if loader.status() != "on" or backend.placement is None:
        return
    matrices = sum(backend_bytes for _, backend_bytes in _repacked(backend))
    assert matrices <= backend.repacked_bytes <= matrices * 19 // 18 + 1
    local = backend.placement.devices[0]
    if local.weights_bytes > 10_000_000:
        assert matrices > 0.9 * local.weights_bytes


def _repacked(backend: LlamaBackend) -> list[tuple[str, int]]:
    return [
        (each.tensor.name, tensor_bytes(each.tensor)) for each in backend.assignments if each.kernels == OWN_REPACKED
    ]


def check_replies(alone: LlamaBackend, replies: Replies) -> None:
    """Each reply is a greedy decode of one process."""
    for number, prompt in replies.prompts.items():
        alone.reset()
        assert max(shortfalls(alone, prompt, replies.tokens[number])) < NOISE


def test_without_rules_the_planner_decides(workers: Workers, alone: LlamaBackend) -> None:
    """Without a part for this machine workers have all of the model, and nothing is faster than one of them alone."""
    backend = load_placed([each.endpoint for each in workers], local=False)
    try:
        assert backend.placement is not None
        here, *there = [each.layers for each in backend.placement.devices]
        assert backend.placement.differences == ()
        assert (here, sum(there)) == (0, LAYERS)
        replies = Replies(backend)
        replies.ask(0, _QUESTIONS[0], max_tokens=24)
        replies.finish()
        check_replies(alone, replies)
    finally:
        backend.close()


@pytest.mark.parametrize("gpu_layers", [0, 7])
def test_a_number_of_layers_is_kept_to(workers: Workers, gpu_layers: int) -> None:
    backend = load_placed([workers[0].endpoint], gpu_layers=gpu_layers)
    try:
        assert backend.placement is not None
        assert [each.layers for each in backend.placement.devices] == [LAYERS - gpu_layers, gpu_layers]
        assert backend.placement.differences == ()
    finally:
        backend.close()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K"])
def test_experts_here_and_the_rest_on_a_worker(workers: Workers, tmp_path: Path, kind: str) -> None:
    path = tiny_experts(tmp_path, dense="Q8_0", experts=kind)
    endpoint = workers[0].endpoint
    placement = {"layers": {"0-1": endpoint}, "tensors": {"_exps": "local"}, "output": endpoint}
    backend = load_placed([endpoint], model=path, placement=placement, ctx=256)
    one = create_llama(path, Settings(threads=2, ctx=256, parallel=4))
    try:
        report = backend.placement
        assert report is not None
        assert report.is_known
        assert report.differences == ()
        assert [each.layers for each in report.devices] == [0, 2]
        assert report.devices[0].tensors == 2 * 3 + 1, "the experts, and the embedding"
        if loader.status() == "on":
            assert {each.kernels for each in backend.assignments} == {OWN_REPACKED}
            assert backend.repacked_bytes >= sum(size for _, size in _repacked(backend))
        tokens = [3 + 7 * place % 200 for place in range(48)]
        found, expected = (each.decode(tokens, list(range(48)), [0] * 48, [5, 47]).copy() for each in (backend, one))
        for row, other in zip(found, expected, strict=True):
            assert np.corrcoef(row, other)[0, 1] > 0.95
    finally:
        backend.close()
        one.close()


def test_a_rule_for_more_than_there_is_names_the_sizes(workers: Workers) -> None:
    endpoint = workers[0].endpoint
    placement = {"layers": {"0-29": endpoint}}
    with pytest.raises(ConfigurationError, match=r"GB of KV cache on .* free"):
        load_placed([endpoint], placement=placement, ctx=16_000_000)


def test_a_worker_that_offers_little_memory_gets_few_layers() -> None:
    small = WorkerProcess("--memory-mb", "60")
    try:
        backend = load_placed([small.endpoint], local=False)
        try:
            report = backend.placement
            assert report is not None
            assert report.differences == ()
            assert 0 < report.devices[1].layers < LAYERS
            assert report.devices[1].weights_bytes + report.devices[1].kv_bytes < 60_000_000
        finally:
            backend.close()
    finally:
        small.close()


def test_a_worker_that_refuses_memory_gets_fewer_layers(
    workers: Workers, alone: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp makes no context where a device refuses memory. Here it refuses while there are over 20 layers."""
    # Imported before the backend, it would be loaded without the kernels.
    import llama_cpp.llama_cpp as llama

    load, make, on_devices = llama.llama_model_load_from_file, llama.llama_init_from_model, 0
    lines: list[tuple[str, str]] = []

    def loaded(path: bytes, params: Any) -> Any:
        nonlocal on_devices
        on_devices = params.n_gpu_layers - 1
        return load(path, params)

    monkeypatch.setattr(llama, "llama_model_load_from_file", loaded)
    monkeypatch.setattr(
        llama, "llama_init_from_model", lambda model, params: None if on_devices > 20 else make(model, params)
    )
    endpoint = workers[0].endpoint
    backend = load_placed([endpoint], local=False, log=lambda level, line: lines.append((level, line)))
    try:
        assert backend.placement is not None
        here, there = [each.layers for each in backend.placement.devices]
        assert 0 < there <= 20
        assert here + there == LAYERS
        assert backend.placement.differences == ()
        replies = Replies(backend)
        replies.ask(0, _QUESTIONS[0], max_tokens=8)
        replies.finish()
        check_replies(alone, replies)
    finally:
        backend.close()
    told = [line for level, line in lines if level in ("warning", "error")]
    assert len(told) == 1
    assert told[0].startswith(f"a device had less memory than it reported: local has {here} layers")
    assert f"{endpoint} has {there} layers" in told[0]
