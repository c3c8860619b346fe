"""States of each kind of memory leave llama.cpp's cache and come back in pieces, with steps of other slots between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from architectures import ARCHITECTURES, tiny_model
from moving_slots import OTHERS, PROMPT, MovingSlots
from tailrace.engine.backends.base import Logits
from tailrace.engine.backends.llama import LlamaBackend, state_copies
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.load import load_llama
from tailrace.settings import Settings


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(request.param, tmp_path_factory.mktemp("models"))


@pytest.fixture
def backend(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaBackend]:
    backend = load_llama(model, Settings(ctx=1024, parallel=4, kv_tokens=8192, threads=1))
    if not backend.layout_policy.reserved_cells:
        backend.close()
        pytest.skip("without the kernels, or where the kernel counts addresses as memory")
    monkeypatch.setattr(state_copies, "PIECE_BYTES", 20 * backend.bytes_per_cell)
    yield backend
    backend.close()


def test_a_state_that_moved_in_pieces_gives_the_same_numbers(backend: LlamaBackend) -> None:
    slots = MovingSlots(backend, others=30)
    slots.read(0, PROMPT)
    assert slots.move() == backend.rollback.has_cells


def test_a_reply_goes_on_while_its_state_is_copied(backend: LlamaBackend) -> None:
    slots = MovingSlots(backend, others=30)
    slots.read(0, PROMPT)
    save = backend.kv_begin_save(0)
    assert save is not None
    while save.state is None:
        save.advance()
    expected = slots.read(0, [7, 8, 9], 200)
    state = slots.finish(save)
    backend.kv_truncate(0, 0)
    assert backend.kv_load(2, state, 200)
    assert np.array_equal(slots.read(2, [7, 8, 9], 200), expected)


@pytest.mark.parametrize("saved", [Layout(0, 2048), Layout(2, 2048), Layout(4, 2048)], ids=str)
def test_a_state_moves_into_a_partition_in_pieces(backend: LlamaBackend, saved: Layout) -> None:
    backend.kv_relayout(saved, ())
    slots = MovingSlots(backend, other=1, others=30)
    slots.read(0, PROMPT)
    whole = backend.kv_save(0)
    state = slots.finish(backend.kv_begin_save(0))
    assert np.array_equal(state, whole)
    backend.kv_relayout(Layout(4, 2048), ())
    slots = MovingSlots(backend, others=30)
    load = backend.kv_begin_load(1, state, 200)
    is_adapted = saved.partitions != 4
    if not backend.rollback.has_cells or (is_adapted and backend.rollback.by_checkpoints):
        assert load is None
        assert backend.kv_load(1, state, 200)
    else:
        assert slots.finish(load).size == backend.kv_save(1).size
    again = slots.read(1, [7, 8, 9], 200)
    assert np.array_equal(again, _alone(backend, [*PROMPT, 7, 8, 9]))


def test_a_part_of_a_state_comes_into_a_partition(backend: LlamaBackend) -> None:
    if backend.rollback.window or backend.rollback.by_checkpoints:
        pytest.skip("this state can't be cut")
    slots = MovingSlots(backend, others=30)
    slots.read(0, PROMPT)
    state = backend.kv_save(0)
    backend.kv_relayout(Layout(4, 512), ())
    slots = MovingSlots(backend, others=30)
    slots.finish(backend.kv_begin_load(2, state, 60))
    after = slots.read(2, PROMPT[60:100], 60)
    assert np.array_equal(after, _alone(backend, PROMPT[:100]))


def test_a_part_of_a_state_takes_the_cells_of_that_part(backend: LlamaBackend) -> None:
    rollback = backend.rollback
    if rollback.window or not rollback.has_cells:
        pytest.skip("this state can't be cut")
    slots = MovingSlots(backend, others=30)
    slots.read(0, PROMPT[:60])
    checkpoint = backend.kv_checkpoint(0) if rollback.by_checkpoints else None
    slots.read(0, PROMPT[60:], 60)
    state = backend.kv_save(0)
    backend.kv_truncate(0, 0)
    load = backend.kv_begin_load(1, state, 60)
    if checkpoint is not None:
        assert backend.kv_rollback(1, checkpoint, 60)
    # Another sequence takes the cells behind the 60 at once.
    slots.read(2, OTHERS[:140])
    slots.finish(load)
    after = slots.read(1, PROMPT[60:100], 60)
    assert np.array_equal(slots.read(2, [7], 140), _alone(backend, [*OTHERS[:140], 7]))
    assert np.array_equal(after, _alone(backend, PROMPT[:100]))


def _alone(backend: LlamaBackend, tokens: list[int]) -> Logits:
    """The logits after these tokens in an empty slot."""
    backend.kv_truncate(0, 0)
    logits = np.empty(0, np.float32)
    for place, token in enumerate(tokens):
        logits = backend.decode([token], [place], [0], [0], 1)[0].copy()
    return logits


def test_a_broken_state_leaves_the_slot_empty(backend: LlamaBackend) -> None:
    slots = MovingSlots(backend, others=30)
    slots.read(0, PROMPT[:50])
    state = backend.kv_save(0)
    backend.kv_truncate(0, 0)
    broken = state.copy()
    broken[8 + 50 * 12 :] = 255
    assert backend.kv_begin_load(1, broken, 50) is None
    assert np.array_equal(slots.read(1, PROMPT[:20]), _alone(backend, PROMPT[:20]))
