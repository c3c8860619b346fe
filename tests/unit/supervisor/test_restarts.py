"""When a dead child is started again, and when it is given up."""

from __future__ import annotations

from tailrace.supervisor.restarts import Restarts


def test_a_child_that_never_becomes_ready_is_given_up_after_three_tries() -> None:
    restarts = Restarts(10)
    assert [restarts.died(1.0, ready=False) for _ in range(3)] == [0.0, 0.5, None]


def test_a_child_that_was_ready_once_may_fail_to_load_twice_again() -> None:
    restarts = Restarts(10)
    delays = [restarts.died(1.0, ready=ready) for ready in (False, False, True, False, False, False)]
    assert delays == [0.0, 0.5, 1.0, 2.0, 5.0, None]


def test_a_child_that_dies_soon_after_each_start_is_given_up_at_the_limit() -> None:
    restarts = Restarts(10)
    delays = [restarts.died(5.0, ready=True) for _ in range(10)]
    assert delays == [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0, 10.0, None]


def test_without_a_limit_it_is_started_for_ever() -> None:
    restarts = Restarts(0)
    assert None not in [restarts.died(5.0, ready=True) for _ in range(1000)]


def test_deaths_after_hours_don_t_add_up() -> None:
    restarts = Restarts(3)
    assert [restarts.died(7200.0, ready=True) for _ in range(100)] == [0.0] * 100
    assert restarts.died(5.0, ready=True) == 0.5


def test_a_start_that_the_system_refuses_is_tried_again_later_and_for_ever() -> None:
    restarts = Restarts(3)
    delays = [restarts.start_failed() for _ in range(100)]
    assert delays[0] == 0.5
    assert delays[-1] == 10.0
