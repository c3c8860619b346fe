"""The prefill chunk beside running streams."""

from __future__ import annotations

from tailrace.engine.pace import PrefillPace


def test_the_chunk_is_what_the_time_budget_allows_at_the_speed_seen() -> None:
    pace = PrefillPace(512, step_seconds=0.1)
    assert pace.chunk == 64
    for _ in range(30):
        pace.observe(200, 0.1)  # 2000 tokens a second
    assert 195 <= pace.chunk <= 200
    for _ in range(30):
        pace.observe(200, 1.0)
    assert 18 <= pace.chunk <= 20


def test_the_chunk_stays_between_its_bounds_and_small_steps_teach_nothing() -> None:
    pace = PrefillPace(512, step_seconds=0.1)
    pace.observe(1, 100.0)
    assert pace.chunk == 64
    pace.observe(500, 0.001)
    assert pace.chunk == 512
    for _ in range(30):
        pace.observe(500, 1000.0)
    assert pace.chunk == 16
