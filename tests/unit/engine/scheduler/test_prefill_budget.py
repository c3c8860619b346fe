"""The prefill chunk beside running streams."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tailrace.engine.scheduler.prefill_budget import MIN_TOKENS, PrefillBudget


def _taught(budget: PrefillBudget, decode: dict[int, float], token: float) -> PrefillBudget:
    """A budget that has seen steps of such a machine."""
    for _ in range(200):
        for streams, seconds in decode.items():
            budget.observe(streams, 0, seconds)
            budget.observe(streams, 100, seconds + 100 * token)
    return budget


def test_the_budget_is_the_step_time_that_decode_leaves() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=0.1), {1: 0.01, 4: 0.04}, 0.001)
    assert 88 <= budget.mixed(1) <= 90
    assert 58 <= budget.mixed(4) <= 60


def test_without_a_step_time_it_is_in_proportion_to_a_step_without_prompts() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {1: 0.1, 4: 0.2}, 0.001)
    assert 130 <= budget.mixed(1) <= 141
    assert 270 <= budget.mixed(4) <= 281
    assert budget.mixed(3) == budget.mixed(4), "the nearest number of streams that has been seen"


def test_a_last_chunk_may_take_longer() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {1: 0.01}, 0.001)
    assert 12 <= budget.mixed(1) <= 14
    assert 68 <= budget.last_chunk(1) <= 71
    assert _taught(PrefillBudget(512, step_seconds=0.05), {1: 0.01}, 0.001).last_chunk(1) <= 41, "unless a time is set"


def test_a_caller_s_first_prompt_has_the_time_of_the_replies_that_it_leaves_out() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {8: 0.04}, 0.001)
    assert 38 <= budget.last_chunk(8) <= 41
    assert 78 <= budget.first_prompt() <= 81
    for _ in range(30):
        budget.observe(0, 512, 0.512 * 0.5)
    assert 155 <= budget.first_prompt() <= 161, "a token takes less where no sequence decodes"
    assert _taught(PrefillBudget(512, step_seconds=0.05), {1: 0.01}, 0.001).first_prompt() <= 50


def test_it_follows_a_machine_that_becomes_slower() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=0.1), {2: 0.01}, 0.001)
    before = budget.mixed(2)
    _taught(budget, {2: 0.05}, 0.002)
    assert budget.mixed(2) < before / 3


def test_the_budget_stays_between_its_bounds() -> None:
    budget = PrefillBudget(512, step_seconds=0.1)
    assert budget.mixed(1) == 16, "nothing is known yet"
    assert _taught(budget, {1: 0.01}, 0.000001).mixed(1) == 512
    assert _taught(budget, {1: 0.5}, 0.1).mixed(1) == MIN_TOKENS
    assert _taught(PrefillBudget(2, step_seconds=0.1), {1: 0.5}, 0.1).mixed(1) == 2


def test_a_prompt_beside_the_very_first_reply_gets_more_than_the_smallest_budget() -> None:
    budget = PrefillBudget(512, step_seconds=None)
    for _ in range(10):
        budget.observe(0, 512, 0.5)
    for _ in range(20):
        tokens = budget.mixed(3)
        budget.observe(3, tokens, 0.1 + tokens * 0.001)
    assert 135 <= budget.mixed(3) <= 165


def test_token_times_measured_beside_decode_replace_those_measured_without() -> None:
    budget = PrefillBudget(512, step_seconds=0.1)
    budget.observe(1, 0, 0.01)
    budget.observe(0, 512, 0.0512)
    assert budget.mixed(1) == 512, "a first guess"
    budget.observe(1, 80, 0.09)
    assert 89 <= budget.mixed(1) <= 90, "believed at once"
    for _ in range(20):
        budget.observe(0, 512, 0.0512)
    assert 89 <= budget.mixed(1) <= 90


def test_the_first_chunk_beside_replies_is_smaller_than_a_large_one_s_token_time_allows() -> None:
    budget = PrefillBudget(512, step_seconds=0.1)
    budget.observe(4, 0, 0.01)
    budget.observe(0, 512, 0.512)
    assert 59 <= budget.mixed(4) <= 60
    budget.observe(4, 60, 0.07)
    assert 89 <= budget.mixed(4) <= 90, "a token takes no more time there, as was measured"


def test_one_outlier_hardly_changes_the_budget() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    before = budget.mixed(4)
    budget.observe(4, 0, 1.5)
    assert before <= budget.mixed(4) < 1.2 * before


def test_a_step_leaves_time_for_states_that_move_after_it() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    assert 48 <= budget.mixed(4) - budget.mixed(4, moving=True) <= 52
    assert 0.02 <= budget.move_seconds(4, 0.1) <= 0.03
    assert budget.move_seconds(4, 0.3) == budget.move_seconds(4, 0.1), "a longer step has no more of it"
    assert budget.move_seconds(0, 0.3) == 0.075, "no reply waits"
    assert 0.07 <= budget.move_seconds(4, 0.1, awaited=True) <= 0.08, "a sequence waits"


def test_a_number_of_streams_that_never_ran_without_a_prompt_gets_its_time_all_the_same() -> None:
    budget = PrefillBudget(512, step_seconds=None)
    for _ in range(10):
        budget.observe(0, 512, 0.5)
        budget.observe(1, 0, 0.01)
    for _ in range(20):
        tokens = budget.mixed(4)
        budget.observe(4, tokens, 0.1 + tokens * 0.001)
    assert 135 <= budget.mixed(4) <= 165
    budget.observe(4, budget.mixed(4), 3.0)
    tokens = budget.mixed(4)
    budget.observe(4, tokens, 0.1 + tokens * 0.001)
    assert budget.mixed(4) <= 200, "one long step hardly changes it"


def test_slow_steps_before_a_prompt_don_t_lengthen_its_steps() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    before = budget.mixed(4)
    for _ in range(5):
        budget.observe(4, 0, 0.3)
    assert budget.mixed(4) <= 1.25 * before


def test_a_long_prompt_leaves_a_step_in_which_the_others_are_measured() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.3}, 0.001)
    without = 0
    for _ in range(1000):  # Since the prompt came the machine is three times as fast.
        tokens = budget.mixed(4)
        without += not tokens
        budget.observe(4, tokens, 0.1 + 0.001 * tokens)
        budget.observe_gap(4, tokens, 0.1 + 0.001 * tokens)
    assert 50 <= without <= 70
    assert 160 <= budget.mixed(4) <= 185


def test_a_prompt_s_steps_become_short_soon_after_a_disturbance_ends() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.3}, 0.001)
    for _ in range(64 + 3 * 8 + 4):
        tokens = budget.mixed(4)
        budget.observe(4, tokens, 0.1 + 0.001 * tokens)
        budget.observe_gap(4, tokens, 0.1 + 0.001 * tokens)
    assert budget.mixed(4) <= 220


def _gaps(budget: PrefillBudget, steps: int, lengthened: Callable[[float], float]) -> list[float]:
    """The gaps of so many steps, ÷ a step without prompts."""
    gaps: list[float] = []
    for _ in range(steps):
        tokens = budget.mixed(4)
        seconds = lengthened(0.1 + 0.001 * tokens)
        budget.observe(4, tokens, seconds)
        budget.observe_gap(4, tokens, seconds)
        gaps.append(10 * seconds)
    return gaps


def test_one_gap_of_a_hundred_exceeds_the_bound() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    random = Random(0)
    gaps = _gaps(budget, 4000, lambda seconds: seconds * random.lognormvariate(0.0, 0.15))
    assert sum(gap > 3.0 for gap in gaps) < 0.01 * len(gaps)
    assert sum(gaps) / len(gaps) > 1.8, "no more is given up than that takes"


def test_one_gap_of_a_hundred_exceeds_the_bound_where_other_programs_take_the_cores() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    random = Random(0)
    gaps = _gaps(budget, 4000, lambda seconds: seconds + 0.09 * (random.random() < 0.04))
    assert sum(gap > 3.05 for gap in gaps[60:]) < 0.01 * len(gaps)
    assert sum(gaps) / len(gaps) > 1.8, "the prompt goes on"
    quiet = _gaps(budget, 600, lambda seconds: seconds)
    assert min(quiet[-100:-20]) < 1.1, "one step without a prompt"
    assert 2.7 <= max(quiet[-100:]) <= 2.85, "and the prompt is as fast as before once they have gone"


def test_a_prompt_doesn_t_wait_for_gaps_that_it_can_t_shorten() -> None:
    budget = _taught(PrefillBudget(512, step_seconds=None), {4: 0.1}, 0.001)
    random = Random(0)
    gaps = _gaps(budget, 1000, lambda seconds: seconds + 0.4 * (random.random() < 0.04))
    assert 2.3 <= sorted(gaps[-300:])[200] <= 2.5
