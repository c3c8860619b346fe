"""Speculation where memory can't be cut: greedy replies are the same with draft tokens and without, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from known_replies import KnownReplies
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.load import load_llama
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.protocol import EngineCounters, GenerationParams, Sampling, Submit
from tailrace.settings import Settings

#: Models by how they drop rejected tokens.
_BY_SNAPSHOTS = ("tiny-qwen35", "tiny-lfm2")
_BY_CHECKPOINTS = ("tiny-mamba", "tiny-granite-hybrid", "tiny-falcon-h1")
_REPLY = 60
_PROMPTS = ([5, 9, 7, 5, 9, 7, 5, 9], [20, 30, 40, 20, 30, 40, 20, 30, 40], [100, 101, 100, 101, 100])


@pytest.fixture(params=_BY_SNAPSHOTS + _BY_CHECKPOINTS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LlamaBackend]:
    path = tmp_path / "model.gguf"
    write_model(path, request.param, SHAPES[request.param], byte_vocabulary(), "Q8_0")
    backend = load_llama(path, Settings(ctx=512, parallel=4, threads=1, draft_tokens=6))
    assert backend.rollback.by_checkpoints
    assert (backend.rollback.snapshots > 0) == (request.param in _BY_SNAPSHOTS)
    yield backend
    backend.close()


def replies(
    backend: LlamaBackend, speculator: Speculator | None, *, together: bool
) -> tuple[list[list[int]], EngineCounters]:
    """Greedy replies to all prompts, together or one after the other."""
    backend.reset()
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=0, speculator=speculator)
    found = []
    for identity, prompt in enumerate(_PROMPTS):
        params = GenerationParams(max_tokens=_REPLY, ignore_eos=True, sampling=Sampling(temperature=0.0))
        sequence = prepare_sequence(backend, Submit(id=identity, prompt=list(prompt), params=params))
        assert isinstance(sequence, Sequence)
        found.append(sequence.tokens)
        loop.inbox.put(sequence)
        while not together and loop.has_work:
            loop.take()
            loop.step()
    while loop.has_work:
        loop.take()
        loop.step()
    return found, loop.heartbeat().counters


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
