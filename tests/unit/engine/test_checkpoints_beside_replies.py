"""Checkpoints that are taken beside replies find touched memory, so no reply waits for page faults."""

from __future__ import annotations

import pytest

from context_backend import ContextBackend
from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.fake import START
from tailrace.engine.kv_cache import cache_op_executor
from tailrace.engine.loop import EngineLoop
from tailrace.engine.scheduler import prefill_budget
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.machine import free_memory
from tailrace.protocol import Submit


class _CountingBackend(ContextBackend):
    """Counts the checkpoints of a step."""

    def __init__(self) -> None:
        super().__init__(ctx=4096, parallel=4, kv_tokens=16384, batch=64, memory="hybrid")
        self.taken = 0

    def kv_checkpoint(self, slot: int, reused: KVState | None = None) -> KVState:
        """See ``Backend``."""
        self.taken += 1
        return super().kv_checkpoint(slot, reused)


class _Runner:
    """``late``: checkpoints beside replies for which no touched memory was ready."""

    def __init__(self, checkpoint_bytes: int) -> None:
        self.backend = _CountingBackend()
        self.loop = EngineLoop(
            self.backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=4000, checkpoint_bytes=checkpoint_bytes
        )
        self.beside = self.late = 0
        self.replies = 0

    def ask(self, identity: int, prompt: list[int], max_tokens: int) -> None:
        params = GenerationParams(max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0))
        sequence = prepare_sequence(self.backend, Submit(id=identity, prompt=prompt, params=params))
        assert isinstance(sequence, Sequence)
        self.loop.inbox.put(sequence)

    def run(self) -> None:
        while True:
            self.loop.take()
            if not self.loop.has_work:
                return
            decodes = bool(self.loop._scheduler.decoding)
            ready, self.backend.taken = self.loop._executor._checkpoint_memory.ready, 0
            step = self.loop.step()
            if decodes:
                self.beside += self.backend.taken
                self.late += max(0, self.backend.taken - ready)
            self.replies += 0 if step is None else len(step.finished)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for a checkpoint takes many steps."""
    monkeypatch.setattr(cache_op_executor, "_CHECKPOINT_BYTES", 512)
    monkeypatch.setattr(prefill_budget, "_MOVE_PART", 0.0)
    monkeypatch.setattr(free_memory, "available_memory", lambda: 1 << 30)


def _prompt(kind: int, messages: int) -> list[int]:
    return [token for place in range(messages) for token in ([97 + (kind + place) % 5] * 90 + [START])]


def test_replies_and_prompts_wait_for_memory_that_is_touched_ahead() -> None:
    runner = _Runner(10**7)
    for identity in range(3):
        runner.ask(identity, _prompt(identity, 1), 1300)
    runner.loop.take()
    runner.loop.step()
    for identity in range(3, 7):
        runner.ask(identity, _prompt(identity, 6), 20)
    runner.run()
    assert runner.replies == 7
    assert runner.beside >= 8
    assert runner.late <= 1, "the first one comes before any memory was touched"


def test_without_memory_ahead_checkpoints_are_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _Runner(10**7)
    monkeypatch.setattr(runner.loop._executor._checkpoint_memory, "_begin", lambda *_: False)
    runner.ask(0, _prompt(0, 1), 1300)
    runner.loop.take()
    runner.loop.step()
    runner.ask(1, _prompt(1, 6), 20)
    runner.run()
    assert runner.replies == 2
    assert runner.beside >= 4


def test_where_space_is_short_dropped_ones_give_their_memory() -> None:
    size = ContextBackend(ctx=64, parallel=1, kv_tokens=64, batch=64, memory="hybrid").rollback.checkpoint_bytes
    runner = _Runner(4 * size)
    for identity in range(3):
        runner.ask(identity, _prompt(identity, 1), 1300)
    runner.run()
    checkpoints = runner.loop.cache.accounting.checkpoints
    assert checkpoints is not None
    assert len(checkpoints) <= 4
    assert runner.replies == 3
    assert runner.beside > 4
