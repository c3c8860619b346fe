"""Inputs of a pass go to a worker: attention masks as runs of cells, and all of them without a wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from architectures import tiny_model
from moving_slots import OTHERS, PROMPT
from placed_backend import load_placed
from tailrace.engine.backends.base import Logits
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.kernels import loader
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]


@contextlib.contextmanager
def loaded(family: str, worker: WorkerProcess, folder: Path) -> Iterator[LlamaBackend]:
    """A tiny model of a family, all of it on a worker."""
    if loader.status() not in ("on", "not loaded"):
        pytest.skip("masks go whole without the kernels")
    backend = load_placed([worker.endpoint], model=tiny_model(family, folder), local=False, kv_tokens=4096)
    yield backend
    backend.close()


def read(backend: LlamaBackend) -> Logits:
    """Logits of two sequences whose cells lie between each other, and of a prompt behind them."""
    backend.reset()
    for begin in range(0, 200, 40):
        for slot, text in enumerate((PROMPT, OTHERS)):
            part = text[begin : begin + 40]
            logits = backend.decode(part, list(range(begin, begin + len(part))), [slot] * len(part), [len(part) - 1])
    rows = [logits.copy()]
    rows.append(backend.decode(PROMPT[:100], list(range(100)), [2] * 100, [99]).copy())
    rows.append(backend.decode([7, 8], [200, 200], [0, 1], [0, 1], 2).copy())
    return np.concatenate(rows)


@pytest.mark.parametrize("family", ["dense", "sliding"])
def test_a_mask_of_runs_gives_the_same_numbers(workers: Workers, tmp_path: Path, family: str) -> None:
    with loaded(family, workers[0], tmp_path) as backend:
        before = loader.mask_runs_sent()
        found = read(backend)
        assert loader.mask_runs_sent() > before
        loader.send_mask_runs(workers[0].endpoint, on=False)
        before = loader.mask_runs_sent()
        assert np.array_equal(read(backend), found)
        assert loader.mask_runs_sent() == before


def test_a_worker_without_the_kernels_gets_whole_masks(tmp_path: Path) -> None:
    worker = WorkerProcess("--kernels", "off")
    try:
        with loaded("dense", worker, tmp_path) as backend:
            before = loader.mask_runs_sent()
            assert np.isfinite(read(backend)).all()
            assert loader.mask_runs_sent() == before
    finally:
        worker.close()


def test_inputs_that_nothing_waits_for_give_the_same_numbers(workers: Workers, tmp_path: Path) -> None:
    """Layers are here and on two workers, so each pass goes to both of them."""
    here = {"0": "local", "1": workers[0].endpoint, "2-3": workers[1].endpoint}
    backend = load_placed(
        [each.endpoint for each in workers],
        model=tiny_model("dense", tmp_path, layers=4),
        kv_tokens=4096,
        placement={"layers": here},
    )
    try:
        found = read(backend)
        loader.wait_for_inputs(waits=True)
        assert np.array_equal(read(backend), found)
    finally:
        loader.wait_for_inputs(waits=False)
        backend.close()
