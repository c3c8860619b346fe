"""What the log says of a long gap between two tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from structlog.testing import capture_logs

from context_backend import ContextBackend
from tailrace.engine import long_gaps
from tailrace.engine.kv_cache.cache_ops import Placement
from tailrace.engine.long_gaps import LongGaps
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Submit


class _Clock:
    """Stands in the place of ``time``: the loop's thread computes half of the time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now / 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(long_gaps, "time", clock)
    return clock


def _step(
    gaps: LongGaps, clock: _Clock, seconds: float, *, quiet: float = 0.01, replies: Iterable[int] = (1, 2, 3)
) -> list[Any]:
    """A step of these replies that takes ``seconds``; what it logs."""
    sampled = [Sequence(Submit(id=each, prompt=[1]), [1], 10, frozenset()) for each in replies]
    with capture_logs() as logs:
        clock.now += 0.25 * seconds
        gaps.mark("schedule")
        clock.now += 0.75 * seconds
        gaps.mark("decode")
        gaps.end(sampled, 20, quiet)
    return logs


def test_a_gap_beyond_the_bound_is_logged_with_its_parts(clock: _Clock) -> None:
    gaps = LongGaps(0.1)
    assert not _step(gaps, clock, 0.4), "no reply has waited yet"
    gaps.note([Placement(0, 0), Placement(1, 0)])
    (line,) = _step(gaps, clock, 0.4)
    assert line["event"] == "replies waited"
    assert (line["ms"], line["cpu_ms"]) == (400, 200)
    assert line["parts"] == "decode 300 (CPU 150), schedule 100 (CPU 50)"
    assert (line["replies"], line["prompt_tokens"], line["cache_ops"]) == (3, 20, "2 placement")
    assert not _step(gaps, clock, 0.09)
    (line,) = _step(gaps, clock, 0.2)
    assert (line["ms"], line["cache_ops"]) == (200, ""), "each gap has its own parts"


def test_the_steps_of_a_large_model_are_no_long_gaps(clock: _Clock) -> None:
    gaps = LongGaps(0.1)
    _step(gaps, clock, 0.4)
    assert not _step(gaps, clock, 0.4, quiet=0.2)
    assert _step(gaps, clock, 0.7, quiet=0.2)


def test_time_in_which_no_reply_waits_is_no_gap(clock: _Clock) -> None:
    gaps = LongGaps(0.1)
    _step(gaps, clock, 0.4)
    for reply in (1, 2, 3):
        gaps.drop(reply)
    assert not _step(gaps, clock, 0.4)
    assert _step(gaps, clock, 0.4)


def test_replies_that_begin_in_a_step_have_not_waited_for_it(clock: _Clock) -> None:
    gaps = LongGaps(0.1)
    _step(gaps, clock, 0.4, replies=[1, 2])
    gaps.drop(1)
    (line,) = _step(gaps, clock, 0.4, replies=[2, 3, 4])
    assert line["replies"] == 1
    gaps.drop(2)
    gaps.drop(3)
    gaps.drop(4)
    assert not _step(gaps, clock, 0.4, replies=[5, 6])


def test_replies_wait_through_a_step_of_another_caller_s_prompt(clock: _Clock) -> None:
    gaps = LongGaps(0.1)
    _step(gaps, clock, 0.4, replies=[1, 2])
    assert not _step(gaps, clock, 0.08, replies=[3])
    (line,) = _step(gaps, clock, 0.04, replies=[1, 2, 3])
    assert (line["ms"], line["replies"]) == (120, 3)
    assert line["parts"] == "decode 90 (CPU 45), schedule 30 (CPU 15)"


def test_nothing_is_logged_without_a_bound(clock: _Clock) -> None:
    gaps = LongGaps(0.0)
    for _ in range(3):
        assert not _step(gaps, clock, 10.0)


def _begin(loop: EngineLoop, backend: ContextBackend, identity: int, prompt: list[int]) -> None:
    params = GenerationParams(max_tokens=8, sampling=Sampling(temperature=0.0))
    sequence = prepare_sequence(backend, Submit(id=identity, prompt=prompt, params=params))
    assert isinstance(sequence, Sequence)
    loop.inbox.put(sequence)


def test_replies_whose_prompts_are_cached_have_not_waited_for_the_cancelled_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_gaps, "_MIN_STEPS", 0.0)
    backend = ContextBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, long_gap_seconds=1e-9)
    prompts = [[97 + number] * 20 for number in range(2)]
    for identity, prompt in enumerate(prompts):
        _begin(loop, backend, identity, prompt)
    loop.take()
    for _ in range(3):
        loop.step(lambda _: None)
    for identity, prompt in enumerate(prompts):
        loop.inbox.put(identity)  # cancels it
        _begin(loop, backend, 10 + identity, prompt)
    loop.take()
    with capture_logs() as logs:
        first = loop.step(lambda _: None)
    assert first is not None
    assert sorted(first.ids) == [10, 11], "both prompts are known"
    assert not [line for line in logs if line["event"] == "replies waited"]
    with capture_logs() as logs:
        loop.step(lambda _: None)
    assert [line["replies"] for line in logs if line["event"] == "replies waited"] == [2]


def test_the_loop_names_the_parts_of_its_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_gaps, "_MIN_STEPS", 0.0)
    monkeypatch.setattr(long_gaps, "_SHORT_SECONDS", 0.0)
    backend = ContextBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, long_gap_seconds=1e-9)
    for identity in (1, 2):
        _begin(loop, backend, identity, [97 + identity] * 20)
        loop.take()
        with capture_logs() as logs:
            for _ in range(4):
                loop.step(lambda _: None)
    lines = [line for line in logs if line["event"] == "replies waited"]
    assert len(lines) == 4
    assert (lines[0]["replies"], lines[0]["prompt_tokens"], lines[0]["cache_ops"]) == (1, 20, "1 placement")
    for part in ("schedule", "cache ops", "decode", "sample", "send", "accounting", "moves"):
        assert part in lines[0]["parts"]
