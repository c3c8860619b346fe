"""The parts of a pool of threads that several engines divide."""

from __future__ import annotations

import pytest

from tailrace.engine.backends.llama.thread_pools import part_of
from tailrace.machine.plan import PoolPlan


@pytest.mark.parametrize(("threads", "count"), [(8, 2), (8, 3), (7, 7), (5, 4), (2, 1)])
def test_parts_are_disjoint_and_use_every_thread_and_cpu(threads: int, count: int) -> None:
    plan = PoolPlan(threads, tuple(range(10, 10 + threads)), strict=True, poll=3, priority=1)
    parts = [part_of(plan, place, count) for place in range(count)]
    assert sum(part.threads for part in parts) == threads
    assert sorted(cpu for part in parts for cpu in part.cpus) == list(plan.cpus)
    assert all(part.threads == len(part.cpus) >= 1 for part in parts)
    assert [part.threads for part in parts] == sorted((part.threads for part in parts), reverse=True)
    assert {(part.strict, part.poll, part.priority) for part in parts} == {(True, 3, 1)}


def test_more_engines_than_threads_have_one_each() -> None:
    plan = PoolPlan(2, (4, 5), strict=True)
    parts = [part_of(plan, place, 3) for place in range(3)]
    assert [(part.threads, part.cpus) for part in parts] == [(1, (4,)), (1, (5,)), (1, (4,))]


def test_threads_without_cpus_are_divided_alone() -> None:
    assert [part_of(PoolPlan(5), place, 2).threads for place in range(2)] == [3, 2]
    assert part_of(PoolPlan(5), 0, 2).cpus == ()
