"""States move between a worker and host memory in pieces, with steps of other slots between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from architectures import ARCHITECTURES, tiny_model
from moving_slots import PROMPT, MovingSlots
from placed_backend import load_placed
from tailrace.engine.backends.llama import LlamaBackend, transfers
from tailrace.engine.kernels import loader
from worker_process import WorkerProcess


@pytest.fixture(params=list(ARCHITECTURES))
def backend(
    request: pytest.FixtureRequest,
    workers: tuple[WorkerProcess, WorkerProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[LlamaBackend]:
    """All layers are on the worker."""
    if loader.status() not in ("on", "not loaded"):
        pytest.skip("states move whole without the kernels")
    monkeypatch.setattr(transfers, "MAX_PIECE_BYTES", 8192)
    endpoint = workers[0].endpoint
    path = tiny_model(request.param, tmp_path)
    backend = load_placed([endpoint], model=path, local=False, ctx=2048, kv_tokens=4096)
    yield backend
    backend.close()


def test_a_state_that_moved_in_pieces_gives_the_same_numbers(backend: LlamaBackend) -> None:
    slots = MovingSlots(backend)
    slots.read_beside(PROMPT)
    before = backend.counters.state_read_bytes
    whole = backend.kv_save(0)
    # What lies between the cells of a slot is read with them.
    assert 0.8 * whole.size < backend.counters.state_read_bytes - before < 3 * whole.size
    assert np.array_equal(backend._context._read(0, 0), whole)
    if not slots.move():
        return
    counters = backend.counters
    assert counters.state_reads > 1
    assert counters.state_read_bytes > 0
    assert counters.state_writes > 1
    assert 0 < counters.state_write_bytes <= counters.state_read_bytes
