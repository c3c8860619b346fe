"""States move between a worker and host memory in pieces, with steps of other slots between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from architectures import ARCHITECTURES, tiny_model
from placed_backend import load_placed
from tailrace.engine.backends.base import KVState, StateMove
from tailrace.engine.backends.llama import LlamaBackend, transfers
from tailrace.engine.kernels import loader
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow
from worker_process import WorkerProcess

_PROMPT = [3 + place * 37 % 250 for place in range(200)]
_OTHERS = [3 + place * 53 % 250 for place in range(1000)]


class Slots:
    """Slots 0 to 2 of a backend; slot 3 goes on with another text between pieces."""

    def __init__(self, backend: LlamaBackend) -> None:
        self._backend = backend
        self._others = 0

    def read(self, slot: int, tokens: list[int], start: int = 0) -> LogitsRow:
        """The logits after the tokens. They are computed one by one, so a wrong cell shows in exact numbers."""
        for place, token in enumerate(tokens):
            logits = self._backend.decode([token], [start + place], [slot], [0], 1)
        row: LogitsRow = logits[0].copy()
        return row

    def go_on(self) -> None:
        """A step of slot 3."""
        self.read(3, [_OTHERS[self._others]], self._others)
        self._others += 1

    def read_beside(self, tokens: list[int]) -> None:
        """Slot 0 reads the tokens in turn with slot 3, so that their cells lie between each other."""
        for place, token in enumerate(tokens):
            self.read(0, [token], place)
            self.go_on()

    def finish(self, move: StateMove | None) -> KVState:
        """Move the rest, with a step of slot 3 before each piece."""
        assert move is not None
        pieces = 0
        while not move.done:
            self.go_on()
            move.advance()
            pieces += 1
        assert pieces >= 3 or not self._backend.rollback.has_cells
        assert move.state is not None
        return move.state


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
    slots = Slots(backend)
    slots.read_beside(_PROMPT)
    before = backend.counters.state_read_bytes
    whole = backend.kv_save(0)
    assert 0.8 * whole.size < backend.counters.state_read_bytes - before <= whole.size
    state = slots.finish(backend.kv_begin_save(0))
    assert np.array_equal(state, whole)
    expected = slots.read(0, [7, 8, 9], 200)
    backend.kv_truncate(0, 0)
    if not backend.rollback.has_cells:
        assert backend.kv_begin_load(1, state, 200) is None
        return
    slots.finish(backend.kv_begin_load(1, state, 200))
    assert np.array_equal(slots.read(1, [7, 8, 9], 200), expected)
    counters = backend.counters
    assert counters.state_reads > 1
    assert counters.state_read_bytes > 0
    assert counters.state_writes > 1
    assert 0 < counters.state_write_bytes <= counters.state_read_bytes
