"""Jobs of several callers: each has its turn, and within a caller neither cheap nor costly jobs wait for ever."""

from __future__ import annotations

from tailrace.engine.caller_queue import CallerQueue


def queue_of(*jobs: tuple[str, int]) -> CallerQueue[int]:
    queue: CallerQueue[int] = CallerQueue(lambda job: job)
    for caller, job in jobs:
        queue.add(caller, job)
    return queue


def taken(queue: CallerQueue[int]) -> list[int]:
    found = []
    while (job := queue.take()) is not None:
        found.append(job)
    return found


def test_callers_take_turns() -> None:
    queue = queue_of(("a", 10), ("a", 11), ("a", 12), ("b", 20), ("c", 30), ("c", 31))
    assert taken(queue) == [10, 20, 30, 11, 31, 12]
    assert not queue


def test_the_cheapest_and_the_oldest_job_of_a_caller_take_turns() -> None:
    assert taken(queue_of(*(("a", job) for job in (9, 8, 1, 2, 3)))) == [1, 9, 2, 8, 3]


def test_a_job_that_is_not_allowed_now_keeps_its_place() -> None:
    queue = queue_of(("a", 9), ("b", 1))
    assert queue.take(lambda job: job < 5) == 1
    assert queue.take(lambda job: job < 5) is None
    assert list(queue) == [9]


def test_removed_jobs_are_gone() -> None:
    queue = queue_of(("a", 1), ("b", 2))
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert not queue.remove("b", 1)
    assert len(queue) == 1
    queue.clear()
    assert queue.take() is None
