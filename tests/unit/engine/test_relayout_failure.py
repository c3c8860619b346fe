"""A KV cache for whose growth there is no memory: requests that need it fail or wait, and all others go on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from context_backend import ContextBackend
from scarce_memory import ScarceBackend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Failed, Submit


class Runner:
    """Runs requests to their ends."""

    def __init__(self, backend: ContextBackend) -> None:
        self.backend = backend
        self.loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=1000)
        self.said: dict[int, list[int]] = {}
        self.failed: dict[int, Failed] = {}
        self.finished: set[int] = set()

    def ask(self, identity: int, length: int, max_tokens: int) -> None:
        params = GenerationParams(max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0))
        prompt = [97 + identity % 3, *[(identity * 7 + place) % 5 + 97 for place in range(length - 1)]]
        sequence = prepare_sequence(self.backend, Submit(id=identity, prompt=prompt, params=params))
        assert isinstance(sequence, Sequence)
        self.said[identity] = []
        self.loop.inbox.put(sequence)

    def step(self) -> None:
        self.loop.take()
        if (step := self.loop.step()) is not None:
            for identity, token in zip(step.ids, step.tokens, strict=True):
                self.said[identity].append(token)
            self.failed.update({failed.id: failed for failed in step.failed})
            self.finished.update(finished.id for finished in step.finished)

    def finish(self) -> None:
        for _ in range(20_000):
            if not self.loop.has_work:
                return
            self.step()
        raise AssertionError("the loop makes no progress")


def alone(identity: int, length: int, max_tokens: int) -> list[int]:
    """What the request says where there is memory for everything."""
    runner = Runner(ContextBackend(ctx=2048, parallel=3, kv_tokens=0, batch=64))
    runner.ask(identity, length, max_tokens)
    runner.finish()
    return runner.said[identity]


@pytest.mark.parametrize("always_shared", [False, True], ids=["partitioned", "shared"])
@pytest.mark.parametrize("loses", [False, True], ids=["restored", "lost"])
def test_a_request_that_needs_more_memory_fails_and_the_others_go_on(always_shared: bool, loses: bool) -> None:
    backend = ScarceBackend(0, ctx=6000, always_shared=always_shared, loses=loses)
    backend.available = backend.layout.total
    runner = Runner(backend)
    runner.ask(1, 40, 60)
    runner.ask(2, 50, 60)
    for _ in range(5):
        runner.step()
    runner.ask(3, backend.layout.total + 200, 50)
    runner.finish()
    assert backend.failures > 0
    assert (set(runner.failed), runner.finished) == ({3}, {1, 2})
    for identity, length in ((1, 40), (2, 50)):
        assert runner.said[identity] == alone(identity, length, 60)


def test_a_lone_request_that_outgrows_the_memory_fails_with_the_reason() -> None:
    backend = ScarceBackend(1024, parallel=2)
    assert backend.layout.total == 1024
    runner = Runner(backend)
    runner.ask(1, 900, 1100)
    runner.finish()
    assert set(runner.failed) == {1}
    assert "KV cache can't grow" in runner.failed[1].message
    assert backend.failures > 0
    runner.ask(2, 300, 40)
    runner.finish()
    assert runner.said[2] == alone(2, 300, 40)


def test_requests_that_fit_one_after_the_other_wait_for_each_other() -> None:
    backend = ScarceBackend(1024, parallel=2)
    runner = Runner(backend)
    for identity in (1, 2, 3):
        runner.ask(identity, 700, 40)
    runner.finish()
    assert not runner.failed
    for identity in (1, 2, 3):
        assert runner.said[identity] == alone(identity, 700, 40)


def test_growth_is_tried_again_when_nothing_runs() -> None:
    backend = ScarceBackend(1024, parallel=2)
    runner = Runner(backend)
    for identity in (1, 2):
        runner.ask(identity, 700, 20)
    runner.finish()
    backend.available = 10_000
    for identity in (3, 4):
        runner.ask(identity, 900, 20)
    together = 0
    while runner.loop.has_work:
        runner.step()
        together = max(together, runner.loop.heartbeat().running)
    assert (together, runner.failed) == (2, {})


def test_nothing_counts_twice_or_gets_lost_whatever_the_memory() -> None:
    """The counters of a loop whose growth fails: prompts are looked up once, and used cells return to cached ones."""
    failures = 0

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(100, 1900), st.integers(1, 60), st.integers(0, 40)), min_size=2, max_size=7),
        st.sampled_from([0, 2048, 4500]),
        st.sampled_from(["partitioned", "shared", "in place"]),
        st.booleans(),
    )
    def run(requests: list[tuple[int, int, int]], available: int, layout: str, loses: bool) -> None:
        nonlocal failures
        in_place = layout == "in place"
        backend = ScarceBackend(available, always_shared=layout != "partitioned", in_place=in_place, loses=loses)
        backend.available = max(available, backend.layout.total)
        runner = Runner(backend)
        for number in range(61):
            for identity, (length, max_tokens, begins) in enumerate(requests):
                if begins == number:
                    runner.ask(identity, length, max_tokens)
            runner.step()
        runner.finish()
        failures += backend.failures
        assert set(runner.failed) | runner.finished == set(range(len(requests)))
        counters = runner.loop.heartbeat().counters
        assert counters.prefix_queries <= sum(length for length, _, _ in requests)
        assert 0 <= counters.prefix_hits <= counters.prefix_queries
        for identity in runner.finished:
            length, max_tokens, _ = requests[identity]
            assert runner.said[identity] == alone(identity, length, max_tokens)

    run()
    assert failures > 5, "some growth fails in nearly every run"
