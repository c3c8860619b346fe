"""The longest step: estimated until a large pass was measured."""

from __future__ import annotations

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.longest_step import LongestStep
from tailrace.shared_memory.progress_page import ProgressPage


@pytest.fixture
def page() -> ProgressPage:
    return ProgressPage()


def longest(page: ProgressPage, *, estimate: float = 20.0) -> LongestStep:
    backend = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)
    backend.first_step_seconds = estimate
    return LongestStep(page, backend, 64)


def test_the_estimate_counts_until_a_large_pass_was_measured(page: ProgressPage) -> None:
    step = longest(page)
    assert page.longest == 20.0
    step.observe(0.5, 1)
    assert page.longest == 20.0
    step.observe(3.0, 31)
    assert (page.longest, step.is_estimated) == (20.0, True)
    step.observe(2.0, 32)
    assert (page.longest, step.is_estimated) == (3.0, False)
    step.observe(1.0, 64)
    assert page.longest == 3.0
    step.observe(4.0, 1)
    assert page.longest == 4.0


def test_a_step_that_is_longer_than_the_estimate_counts_at_once(page: ProgressPage) -> None:
    longest(page).observe(30.0, 1)
    assert page.longest == 30.0


def test_the_move_of_a_large_cache_is_a_step_that_may_come(page: ProgressPage) -> None:
    backend = FakeBackend(ctx=256, parallel=2, kv_tokens=1_000_000, batch=64)
    backend.bytes_per_cell = 100_000
    step = LongestStep(page, backend, 64)
    assert page.longest == pytest.approx(40.0)
    step.observe(0.1, 64)
    assert page.longest == pytest.approx(40.0)
