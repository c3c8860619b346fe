"""Speculation on the real model: replies stay true greedy decodes of their own prompts (see ``test_engine``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drafted_replies import run_all
from simulated_passes import SimulatedSpeculator, memory_bound
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.load import load_llama
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.models.model_reference import locate_model
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineCounters, Predicted, Submit
from tailrace.settings import Settings
from teacher_forcing import shortfalls

#: See ``test_engine``: what rounding makes of a lost token's lead.
NOISE = 0.6
_TEXT = (
    "The lighthouse at Cape Merrow was built in 1874 by two brothers from Lisbon, who had never seen the northern sea "
    "before. They carried the granite up the cliff with mules and a crane of their own design."
)
_PROMPTS = (
    f"Repeat the following text word for word:\n\n{_TEXT}",
    f"Copy this text, but replace Lisbon with Porto:\n\n{_TEXT}",
    "Write a poem about the sea in winter.",
    "List ten facts about the planet Mars.",
)


def _load() -> LlamaBackend:
    return load_llama(locate_model("smollm2-135m").path, Settings(threads=2, ctx=1024, parallel=4))


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaBackend]:
    backend = _load()
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: LlamaBackend) -> LlamaBackend:
    loaded.reset()
    return loaded


def replies(
    backend: LlamaBackend, speculator: Speculator | None, prompts: tuple[str, ...], *, together: bool
) -> tuple[list[Sequence], EngineCounters]:
    """Greedy replies to all prompts, together or one after the other."""
    loop = EngineLoop(backend, prefill_chunk=256, step_seconds=1.0, host_cache_tokens=4000, speculator=speculator)
    params = GenerationParams(max_tokens=64, sampling=Sampling(temperature=0.0))
    submits = [
        Submit(
            id=number, prompt=PromptText(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"), params=params
        )
        for number, text in enumerate(prompts)
    ]
    sequences = run_all(backend, loop, submits, together=together)
    return sequences, loop.heartbeat().counters


def worst_shortfall(backend: LlamaBackend, sequences: list[Sequence]) -> float:
    """How far any chosen token was from the best one."""
    backend.reset()
    return max(
        max(shortfalls(backend, one.tokens[: one.prompt_length], one.tokens[one.prompt_length :])) for one in sequences
    )


@pytest.mark.parametrize("together", [False, True])
def test_copied_and_other_replies_are_true_greedy_decodes(backend: LlamaBackend, together: bool) -> None:
    # Passes with this cost make every likely draft pay, so rejected tokens are dropped all the time.
    sequences, counters = replies(
        backend, SimulatedSpeculator(LookupDrafter(), memory_bound), _PROMPTS, together=together
    )
    if not together:
        assert counters.accepted_tokens > 60
        assert counters.accepted_tokens < counters.draft_tokens
    assert worst_shortfall(backend, sequences) < NOISE


@pytest.mark.skipif(not cpu_tiers(), reason="without our kernels rounding decides ties")
def test_a_reply_is_the_same_with_drafts_and_without(backend: LlamaBackend) -> None:
    drafted, counters = replies(backend, SimulatedSpeculator(LookupDrafter(), memory_bound), _PROMPTS, together=False)
    assert counters.accepted_tokens > 60
    backend.reset()
    plain, counters = replies(backend, None, _PROMPTS, together=False)
    assert counters.draft_tokens == 0
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]


def test_a_model_drafts_for_itself(backend: LlamaBackend) -> None:
    drafting = _load()
    try:
        speculator = SimulatedSpeculator(DraftModel(drafting, backend.vocabulary), memory_bound, n_draft_max=6)
        sequences, counters = replies(backend, speculator, _PROMPTS, together=True)
    finally:
        drafting.close()
    assert counters.draft_tokens > 100
    # Rounding decides a tie now and then.
    assert counters.accepted_tokens > 0.85 * counters.draft_tokens
    assert worst_shortfall(backend, sequences) < NOISE


def test_accepted_tokens_of_a_prediction_are_reported(backend: LlamaBackend) -> None:
    prompt = f"<|im_start|>user\n{_PROMPTS[2]}<|im_end|>\n<|im_start|>assistant\n"
    pieces = backend.vocabulary

    def reply(prediction: str | None) -> tuple[str, list[Predicted]]:
        backend.reset()
        loop = EngineLoop(
            backend,
            prefill_chunk=256,
            step_seconds=1.0,
            speculator=SimulatedSpeculator(LookupDrafter(), memory_bound, n_draft_max=8),
        )
        sampling = Sampling(temperature=0.0)
        sequence = prepare_sequence(
            backend,
            Submit(
                id=7,
                prompt=PromptText(prompt),
                params=GenerationParams(max_tokens=64, sampling=sampling, prediction=prediction),
            ),
        )
        assert isinstance(sequence, Sequence)
        loop.inbox.put(sequence)
        reported: list[Predicted] = []
        while loop.has_work:
            loop.take()
            if (step := loop.step()) is not None:
                reported += step.predicted
        return b"".join(pieces[token] for token in sequence.tokens[sequence.prompt_length :]).decode(), reported

    text, reported = reply(None)
    assert not reported
    half = len(text) // 2
    said, reported = reply(text[:half] + " elephants and trains")
    assert said[:half] == text[:half]
    assert {predicted.id for predicted in reported} == {7}
    assert sum(predicted.accepted for predicted in reported) > 20
    assert sum(predicted.rejected for predicted in reported) > 0
