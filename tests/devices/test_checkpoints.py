"""Models with recurrent states, windows and both, whose memory is on a worker: checkpoints and states bring it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from architectures import ARCHITECTURES, tiny_model
from placed_backend import load_placed
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend, transfers
from tailrace.engine.kernels import loader
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow
from tailrace.settings import Settings
from worker_process import WorkerProcess

_TOKENS = [3 + 7 * place % 200 for place in range(50)]


def read(backend: LlamaBackend, begin: int, end: int) -> LogitsRow:
    """The last logits of these tokens."""
    count = end - begin
    logits = backend.decode(_TOKENS[begin:end], list(range(begin, end)), [0] * count, [count - 1])
    row: LogitsRow = logits[0].copy()
    return row


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "dense"])
def test_a_workers_memory_comes_back(workers: tuple[WorkerProcess, WorkerProcess], tmp_path: Path, kind: str) -> None:
    path = tiny_model(kind, tmp_path)
    one = create_llama(path, Settings(threads=1, ctx=1024, parallel=4))
    placed = load_placed([workers[0].endpoint], model=path, local=False)
    try:
        assert placed.placement is not None
        assert placed.placement.differences == ()
        assert placed.placement.devices[0].layers == 0
        read(placed, 0, 40)
        by_checkpoints = placed.rollback.by_checkpoints
        state = placed.kv_checkpoint(0) if by_checkpoints else placed.kv_save(0)
        found = read(placed, 40, 50)
        assert (placed.kv_rollback if by_checkpoints else placed.kv_load)(0, state, 40)
        assert np.array_equal(read(placed, 40, 50), found)
        read(one, 0, 40)
        assert np.abs(read(one, 40, 50) - found).max() < 0.05
    finally:
        placed.close()
        one.close()


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "dense"])
def test_a_checkpoint_comes_from_the_worker_while_its_slot_goes_on(
    workers: tuple[WorkerProcess, WorkerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It has the numbers of its own time, also where steps have changed the slot before they came."""
    monkeypatch.setattr(transfers, "MAX_PIECE_BYTES", 1024)
    placed = load_placed([workers[0].endpoint], model=tiny_model(kind, tmp_path), local=False)
    try:
        if not (placed.rollback.by_checkpoints and loader.status() == "on"):
            pytest.skip("this memory can be cut, or there are no kernels")
        while placed.kv_settle():
            pass
        read(placed, 0, 40)
        first = placed.kv_checkpoint(0)
        found = read(placed, 40, 50)
        second = placed.kv_checkpoint(0)
        assert placed.kv_settle(), "it moves in pieces"
        assert placed.kv_rollback(0, first, 40), "the rest came at once"
        assert np.array_equal(read(placed, 40, 50), found)
        assert placed.kv_settle(), "the second one is still on its way"
        while placed.kv_settle():
            pass
        again = placed.kv_checkpoint(0)
        while placed.kv_settle():
            pass
        assert np.array_equal(again, second)
    finally:
        placed.close()
