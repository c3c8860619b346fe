"""An engine loop that a test steps by hand, with or without speculation."""

from __future__ import annotations

from typing import Any

from context_backend import ContextBackend
from simulated_passes import PassSeconds, SimulatedSpeculator, memory_bound
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.protocol import EngineCounters, Finished, Predicted, Submit, TokenLogprobs


class LoopRun:
    """A loop and the steps that it has published."""

    def __init__(self, backend: FakeBackend, speculator: Speculator | None) -> None:
        self.backend = backend
        self.loop = EngineLoop(
            backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=1000, speculator=speculator
        )
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.finished: dict[int, Finished] = {}
        self.predicted: list[Predicted] = []
        self.steps = 0

    def submit(self, submit: Submit) -> None:
        """Put a request into the loop's inbox."""
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        self.tokens[submit.id] = []
        self.logprobs[submit.id] = []
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        """Run a step, and record the published messages."""
        self.loop.take()
        if (step := self.loop.step()) is None:
            return
        self.steps += 1
        for index, (identity, token) in enumerate(zip(step.ids, step.tokens, strict=True)):
            self.tokens[identity].append(token)
            if index in step.logprobs:
                self.logprobs[identity].append(step.logprobs[index])
        self.predicted += step.predicted
        for finished in step.finished:
            assert finished.id not in self.finished
            self.finished[finished.id] = finished

    def finish(self) -> EngineCounters:
        """Run steps until all replies are complete. Returns the counters."""
        while self.loop.has_work:
            self.step()
        return self.loop.heartbeat().counters


def lookup_speculator(pass_seconds: PassSeconds = memory_bound) -> Speculator:
    """A speculator with prompt lookup."""
    return SimulatedSpeculator(LookupDrafter(), pass_seconds)


def context_backend(**options: Any) -> ContextBackend:
    """A backend whose logits depend on the whole context."""
    return ContextBackend(**{"ctx": 400, "parallel": 4, "kv_tokens": 0, "batch": 64, **options})
