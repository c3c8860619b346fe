"""The prefill chunk beside running streams."""

from __future__ import annotations

from tailrace.engine.scheduler.prefill_budget import LEAST, PrefillBudget


def _taught(pace: PrefillBudget, decode: dict[int, float], token: float) -> PrefillBudget:
    """A pace that has seen steps of such a machine."""
    for _ in range(40):
        for streams, seconds in decode.items():
            pace.observe(streams, 0, seconds)
            pace.observe(streams, 100, seconds + 100 * token)
    return pace


def test_the_chunk_is_what_the_time_budget_leaves_beside_decode() -> None:
    pace = _taught(PrefillBudget(512, step_seconds=0.1), {1: 0.01, 4: 0.04}, 0.001)
    assert 88 <= pace.chunk(1) <= 90
    assert 58 <= pace.chunk(4) <= 60


def test_without_a_budget_it_follows_what_a_step_lasts_without_prompts() -> None:
    pace = _taught(PrefillBudget(512, step_seconds=None), {1: 0.1, 4: 0.2}, 0.001)
    assert 192 <= pace.chunk(1) <= 201
    assert 392 <= pace.chunk(4) <= 401
    assert pace.chunk(3) == pace.chunk(4), "the nearest number of streams that has been seen"


def test_a_prompt_that_can_be_ended_may_take_a_tenth_of_a_second() -> None:
    pace = _taught(PrefillBudget(512, step_seconds=None), {1: 0.01}, 0.001)
    assert 18 <= pace.chunk(1) <= 21
    assert 88 <= pace.finish(1) <= 91
    assert _taught(PrefillBudget(512, step_seconds=0.05), {1: 0.01}, 0.001).finish(1) <= 41, "unless a time is set"


def test_it_follows_a_machine_that_becomes_slower() -> None:
    pace = _taught(PrefillBudget(512, step_seconds=0.1), {2: 0.01}, 0.001)
    before = pace.chunk(2)
    _taught(pace, {2: 0.05}, 0.002)
    assert pace.chunk(2) < before / 3


def test_the_chunk_stays_between_its_bounds() -> None:
    pace = PrefillBudget(512, step_seconds=0.1)
    assert pace.chunk(1) == 16, "nothing is known yet"
    assert _taught(pace, {1: 0.01}, 0.000001).chunk(1) == 512
    assert _taught(pace, {1: 0.5}, 0.1).chunk(1) == LEAST
    assert _taught(PrefillBudget(4, step_seconds=0.1), {1: 0.5}, 0.1).chunk(1) == 4


def test_a_prompt_beside_the_very_first_reply_is_not_read_in_the_smallest_pieces() -> None:
    pace = PrefillBudget(512, step_seconds=None)
    for _ in range(10):
        pace.observe(0, 512, 0.5)
    for _ in range(20):
        tokens = pace.chunk(3)
        pace.observe(3, tokens, 0.1 + tokens * 0.001)
    assert 185 <= pace.chunk(3) <= 215


def test_what_is_read_alone_says_little_of_what_is_read_beside_others() -> None:
    pace = PrefillBudget(512, step_seconds=0.1)
    pace.observe(1, 0, 0.01)
    pace.observe(0, 512, 0.0512)
    assert pace.chunk(1) == 512, "a first guess"
    pace.observe(1, 80, 0.09)
    assert 89 <= pace.chunk(1) <= 90, "believed at once"
    for _ in range(20):
        pace.observe(0, 512, 0.0512)
    assert 89 <= pace.chunk(1) <= 90


def test_one_step_that_was_much_too_long_is_not_believed() -> None:
    pace = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    before = pace.chunk(4)
    pace.observe(4, 0, 1.5)
    assert before <= pace.chunk(4) < 1.2 * before
