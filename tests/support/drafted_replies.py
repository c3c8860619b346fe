"""Greedy replies of a loop, with draft tokens or without."""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.engine.backends.base import Backend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import EngineCounters, Submit

PROMPTS = ([5, 9, 7, 5, 9, 7, 5, 9], [20, 30, 40, 20, 30, 40, 20, 30, 40], [100, 101, 100, 101, 100])


def replies(
    backend: Backend,
    speculator: Speculator | None,
    *,
    together: bool,
    prompts: tuple[list[int], ...] | list[list[int]] = PROMPTS,
    max_tokens: int = 60,
) -> tuple[list[list[int]], EngineCounters]:
    """Prompt and reply of each, together or one after the other; and the loop's counters."""
    backend.reset()
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=0, speculator=speculator)
    params = GenerationParams(max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0))
    submits = [Submit(id=number, prompt=list(prompt), params=params) for number, prompt in enumerate(prompts)]
    found = run_all(backend, loop, submits, together=together)
    return [sequence.tokens for sequence in found], loop.heartbeat().counters


def run_all(backend: Backend, loop: EngineLoop, submits: Iterable[Submit], *, together: bool) -> list[Sequence]:
    """The sequences of all submits when they have ended: together, or one after the other."""
    found = []
    for submit in submits:
        sequence = prepare_sequence(backend, submit)
        assert isinstance(sequence, Sequence)
        found.append(sequence)
        loop.inbox.put(sequence)
        if not together:
            _finish(loop)
    _finish(loop)
    return found


def _finish(loop: EngineLoop) -> None:
    while loop.has_work:
        loop.take()
        loop.step()
