"""What the log says of a long gap between two tokens."""

from __future__ import annotations

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


def _step(gaps: LongGaps, clock: _Clock, seconds: float, *, quiet: float = 0.01, goes_on: bool = True) -> list[Any]:
    """A step of three replies that takes ``seconds``; what it logs."""
    with capture_logs() as logs:
        clock.now += 0.25 * seconds
        gaps.mark("schedule")
        clock.now += 0.75 * seconds
        gaps.mark("decode")
        gaps.end(3, 20, quiet, goes_on=goes_on)
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
    _step(gaps, clock, 0.4, goes_on=False)
    assert not _step(gaps, clock, 0.4)


def test_nothing_is_logged_without_a_bound(clock: _Clock) -> None:
    gaps = LongGaps(0.0)
    for _ in range(3):
        assert not _step(gaps, clock, 10.0)


def test_the_loop_names_the_parts_of_its_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_gaps, "_MIN_STEPS", 0.0)
    monkeypatch.setattr(long_gaps, "_SHORT_SECONDS", 0.0)
    backend = ContextBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
    loop = EngineLoop(backend, prefill_chunk=64, step_seconds=1.0, long_gap_seconds=1e-9)
    for identity in (1, 2):
        params = GenerationParams(max_tokens=8, sampling=Sampling(temperature=0.0))
        sequence = prepare_sequence(backend, Submit(id=identity, prompt=[97 + identity] * 20, params=params))
        assert isinstance(sequence, Sequence)
        loop.inbox.put(sequence)
        loop.take()
        with capture_logs() as logs:
            for _ in range(4):
                loop.step(lambda _: None)
    lines = [line for line in logs if line["event"] == "replies waited"]
    assert len(lines) == 4
    assert (lines[0]["replies"], lines[0]["prompt_tokens"], lines[0]["cache_ops"]) == (1, 20, "1 placement")
    for part in ("schedule", "cache ops", "decode", "sample", "send", "accounting", "moves"):
        assert part in lines[0]["parts"]
