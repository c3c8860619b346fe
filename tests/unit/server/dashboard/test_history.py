"""The last minutes: a point a second, rates by the engines' own heartbeats, and percentiles of the last ten seconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tailrace.observe.buckets import FIRST_TOKEN_SECONDS, TOKEN_SECONDS
from tailrace.observe.histogram import Histogram
from tailrace.protocol import EngineCounters
from tailrace.server.dashboard.history import HistoryRecorder


class Engine:
    """One model with one engine, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.first = Histogram(FIRST_TOKEN_SECONDS)
        self.gaps = Histogram(TOKEN_SECONDS)
        self.connection: Any = SimpleNamespace(
            pid=7, heartbeat=None, heartbeat_at=0.0, kv_cells=1000, running=0, gaps=SimpleNamespace(seconds=self.gaps)
        )
        self.connected = True

    def services(self) -> list[Any]:
        if not self.connected:
            return []
        metrics = SimpleNamespace(totals=[SimpleNamespace(first_token_seconds=self.first)])
        return [SimpleNamespace(name="m", engine=SimpleNamespace(connections=[self.connection]), metrics=metrics)]

    def beat(self, generated: int, prompt: int, used: int = 0) -> None:
        counters = EngineCounters(decode_tokens=generated, prefill_tokens=prompt)
        self.connection.heartbeat = SimpleNamespace(counters=counters, kv_cells_used=used)
        self.connection.heartbeat_at = self.now

    def recorder(self) -> HistoryRecorder:
        return HistoryRecorder(self.services, lambda: 3, clock=lambda: self.now)


def test_a_point_has_the_rates_of_its_second() -> None:
    engine = Engine()
    recorder = engine.recorder()
    engine.beat(0, 0)
    recorder.tick()
    engine.now += 0.5
    recorder.tick()
    assert recorder.since(0.0).time == []
    engine.now += 0.5
    engine.beat(250, 40, used=100)
    engine.connection.running = 2
    recorder.tick()
    found = recorder.since(0.0)
    assert (found.generated, found.prompt, found.running, found.waiting) == ([250.0], [40.0], [2], [3])
    assert found.kv_part == [0.1]
    assert found.first_token_p50 == [None]


def test_percentiles_are_of_the_last_ten_seconds() -> None:
    engine = Engine()
    recorder = engine.recorder()
    engine.first.observe(100.0)  # Before the first point.
    recorder.tick()
    engine.now += 1
    engine.first.observe(0.09, 10)
    engine.gaps.observe(0.02, 99)
    recorder.tick()
    for _ in range(11):
        engine.now += 1
        recorder.tick()
    found = recorder.since(0.0)
    assert found.first_token_p50[0] is not None
    assert 0.08 < found.first_token_p50[0] <= 0.1
    assert found.inter_token_p99[0] is not None
    assert 0.01 < found.inter_token_p99[0] <= 0.025
    assert found.first_token_p99[9] is not None
    assert found.first_token_p99[-1] is None


def test_it_keeps_five_minutes_and_gives_what_is_new() -> None:
    engine = Engine()
    recorder = engine.recorder()
    for _ in range(400):
        engine.now += 1
        recorder.tick()
    everything = recorder.since(0.0)
    assert len(everything.time) == 300
    assert recorder.since(everything.time[-1]).time == []


def test_a_model_that_goes_and_comes_makes_no_negative_rates() -> None:
    engine = Engine()
    recorder = engine.recorder()
    engine.beat(1000, 10)
    recorder.tick()
    for connected, pid, generated in ((False, 7, 0), (True, 8, 5), (True, 8, 15)):
        engine.now += 1
        engine.connected, engine.connection.pid = connected, pid
        engine.beat(generated, 0)
        recorder.tick()
    assert recorder.since(0.0).generated == [0.0, 0.0, 10.0]
