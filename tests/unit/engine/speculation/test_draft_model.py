"""A draft model: what it drafts, and which vocabularies it takes."""

from __future__ import annotations

from functools import partial

import pytest

from context_backend import ContextBackend
from loop_runs import LoopRun, context_backend
from scarce_memory import ScarceBackend
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.base import Logits
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.errors import ConfigurationError
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Submit


def test_a_draft_model_that_is_the_model_itself_is_always_right() -> None:
    plain = LoopRun(context_backend(), None)
    drafting = context_backend()
    drafted = LoopRun(
        context_backend(), SimulatedSpeculator(DraftModel(drafting, drafting.vocabulary), memory_bound, n_draft_max=8)
    )
    for run in (plain, drafted):
        for identity in range(3):
            run.submit(
                Submit(
                    id=identity,
                    prompt=[97 + identity] * 90,
                    params=GenerationParams(max_tokens=120, sampling=Sampling(temperature=0.0), ignore_eos=True),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    counters = drafted.loop.heartbeat().counters
    assert counters.accepted_tokens == counters.draft_tokens > 200
    assert drafted.steps < plain.steps / 3


def test_a_draft_model_that_is_always_wrong_is_left_alone() -> None:
    class Wrong(ContextBackend):
        def decode(
            self,
            tokens: list[int],
            positions: list[int],
            slots: list[int],
            outputs: list[int],
            n_decode_tokens: int = 0,
        ) -> Logits:
            return -super().decode(tokens, positions, slots, outputs, n_decode_tokens)

    plain, drafting = LoopRun(context_backend(), None), Wrong(ctx=400, parallel=4, kv_tokens=0, batch=64)
    drafted = LoopRun(
        context_backend(), SimulatedSpeculator(DraftModel(drafting, drafting.vocabulary), memory_bound, n_draft_max=8)
    )
    for run in (plain, drafted):
        for identity in range(8):
            run.submit(
                Submit(
                    id=identity,
                    prompt=[97] * 20,
                    params=GenerationParams(max_tokens=200, ignore_eos=True, sampling=Sampling(seed=3)),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    assert drafted.loop.heartbeat().counters.accepted_tokens == 0
    assert drafted.loop.heartbeat().counters.draft_tokens < 0.25 * 8 * 200


def test_a_draft_model_without_memory_for_long_sequences_drafts_for_the_others() -> None:
    model = partial(ContextBackend, ctx=2048, parallel=4, kv_tokens=0, batch=64)
    plain, drafting = LoopRun(model(), None), ScarceBackend(0, parallel=4)
    drafting.available = drafting.layout.total
    drafted = LoopRun(
        model(), SimulatedSpeculator(DraftModel(drafting, drafting.vocabulary), memory_bound, n_draft_max=8)
    )
    for run in (plain, drafted):
        for identity, length in enumerate((30, 480)):
            run.submit(
                Submit(
                    id=identity,
                    prompt=[97 + identity] * length,
                    params=GenerationParams(max_tokens=100, sampling=Sampling(temperature=0.0), ignore_eos=True),
                )
            )
        run.finish()
    assert drafted.tokens == plain.tokens
    assert drafted.loop.heartbeat().counters.accepted_tokens > 0
    assert 0 < drafting.failures < 10, "a layout that has failed isn't tried in every step"


def test_a_draft_model_with_another_vocabulary_is_refused() -> None:
    backend = context_backend()
    with pytest.raises(ConfigurationError, match="the model's 260"):
        DraftModel(backend, backend.vocabulary[:-1])
    with pytest.raises(ConfigurationError, match="token 97"):
        DraftModel(backend, [b"?" if piece == b"a" else piece for piece in backend.vocabulary])
