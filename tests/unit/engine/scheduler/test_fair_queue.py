"""The order of waiting sequences."""

from __future__ import annotations

import pytest

from simulated_scheduler import sequence_of
from tailrace.engine.scheduler.fair_queue import FairQueue


def _queue(*entries: tuple[int, str, int]) -> FairQueue:
    """``entries``: id, caller and priority."""
    queue = FairQueue()
    for identity, caller, priority in entries:
        queue.add(sequence_of(identity, [1], caller=caller, priority=priority))
    return queue


def _ids(queue: FairQueue, **running: int) -> list[int]:
    return [sequence.id for sequence in queue.in_turn(running)]


def test_one_caller_s_sequences_go_by_priority_and_arrival() -> None:
    assert _ids(_queue((1, "A", 0), (3, "A", 0), (2, "A", 0), (4, "A", -1), (5, "A", 1))) == [4, 1, 2, 3, 5]


def test_callers_take_rounds() -> None:
    queue = _queue((1, "A", 0), (2, "A", 0), (3, "A", 0), (4, "B", 0), (5, "B", 0), (6, "C", 0))
    assert _ids(queue) == [1, 4, 6, 2, 5, 3]
    assert len(queue) == 6


def test_a_caller_with_fewer_running_sequences_comes_first() -> None:
    assert _ids(_queue((1, "A", 0), (2, "A", 0), (3, "B", 0), (4, "B", 0)), A=1) == [3, 1, 4, 2]


def test_priority_has_no_effect_between_callers() -> None:
    assert _ids(_queue((1, "A", -5), (2, "A", -9), (3, "B", 7)), A=1) == [3, 2, 1]


def test_the_caller_that_was_served_last_comes_last() -> None:
    queue = _queue((1, "A", 0), (2, "A", 0), (3, "B", 0), (4, "B", 0))
    order = []
    while queue:
        sequence = next(queue.in_turn({}))
        queue.serve(sequence)
        order.append(sequence.id)
    assert order == [1, 3, 2, 4]
    # A caller that comes and goes doesn't come before others each time.
    for identity in (5, 6, 7):
        queue.add(sequence_of(identity, [1], caller="A" if identity < 7 else "B"))
    first = next(queue.in_turn({}))
    assert first.caller == "A"
    queue.serve(first)
    assert next(queue.in_turn({})).caller == "B"


def test_a_sequence_that_left_is_gone_and_can_not_leave_twice() -> None:
    queue = _queue((1, "A", 0), (2, "B", 0))
    first, second = queue
    queue.remove(first)
    assert list(queue) == [second]
    assert queue.callers == {"B"}
    with pytest.raises(ValueError, match="not in list"):
        queue.remove(first)
    queue.remove(second)
    assert not queue


def test_the_memory_of_turns_is_bounded() -> None:
    queue = FairQueue()
    for number in range(5000):
        queue.add(sequence := sequence_of(number, [1], caller=f"caller {number}"))
        queue.serve(sequence)
    assert len(queue._served) == 4096
