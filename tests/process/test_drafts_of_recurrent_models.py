"""Speculation where memory can't be cut: greedy replies are the same with draft tokens and without, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from drafted_replies import replies
from known_replies import KnownReplies
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.llama import LlamaBackend, memory_budget
from tailrace.engine.load import load_llama
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.settings import Settings

#: Models, and whether they drop rejected tokens by snapshots or by checkpoints.
_MODELS = [
    ("tiny-qwen35", True),
    ("tiny-lfm2", True),
    ("tiny-qwen35", False),
    ("tiny-mamba", False),
    ("tiny-granite-hybrid", False),
    ("tiny-falcon-h1", False),
]


@pytest.fixture(params=_MODELS, ids=lambda model: f"{model[0]}, by {'snapshots' if model[1] else 'checkpoints'}")
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaBackend]:
    name, by_snapshots = request.param
    path = tmp_path / "model.gguf"
    write_model(path, name, SHAPES[name], byte_vocabulary(), "Q8_0")
    # So small a model would have no snapshots, because they slow each pass down.
    monkeypatch.setattr(memory_budget, "_SNAPSHOT_SLOWDOWN", 1e9 if by_snapshots else 0.0)
    backend = load_llama(path, Settings(ctx=512, parallel=4, threads=1, draft_tokens=6))
    assert backend.rollback.by_checkpoints
    assert (backend.rollback.snapshots > 0) == by_snapshots
    yield backend
    backend.close()


@pytest.mark.parametrize("together", [False, True])
def test_replies_are_the_same_with_drafts_that_are_rejected_in_part(backend: LlamaBackend, together: bool) -> None:
    plain, _ = replies(backend, None, together=together)
    speculator = SimulatedSpeculator(KnownReplies(plain), memory_bound, n_draft_max=6)
    drafted, counters = replies(backend, speculator, together=together)
    assert drafted == plain
    assert 60 < counters.accepted_tokens < counters.draft_tokens


def test_a_model_drafts_for_itself(backend: LlamaBackend) -> None:
    drafting = load_llama(backend.model_path, Settings(ctx=512, parallel=4, threads=1))
    try:
        plain, _ = replies(backend, None, together=True)
        speculator = SimulatedSpeculator(DraftModel(drafting, backend.vocabulary), memory_bound, n_draft_max=6)
        drafted, counters = replies(backend, speculator, together=True)
    finally:
        drafting.close()
    assert drafted == plain
    # It is right until the limit of a draft, whatever the draft model had to roll back itself.
    assert counters.accepted_tokens > 0.9 * counters.draft_tokens > 50
