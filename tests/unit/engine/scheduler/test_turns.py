"""Whose turn it is."""

from __future__ import annotations

from tailrace.engine.scheduler.turns import Turns


def test_the_caller_with_the_least_work_comes_first() -> None:
    turns = Turns()
    assert turns.order(["A", "B"]) == ["A", "B"]
    turns.charge("A", 10)
    assert turns.order(["A", "B"]) == ["B", "A"]
    turns.charge("B", 15)
    assert turns.order(["A", "B"]) == ["A", "B"]


def test_equal_callers_take_turns() -> None:
    turns = Turns()
    served = []
    for _ in range(6):
        first = turns.order("ABC")[0]
        turns.charge(first, 4)
        served.append(first)
    assert "".join(served) == "ABCABC"


def test_a_caller_that_had_nothing_to_do_has_no_credit_and_comes_first_once() -> None:
    turns = Turns()
    turns.order(["A"])
    turns.charge("A", 1000)
    served = []
    for _ in range(4):
        first = turns.order(["A", "B"])[0]
        turns.charge(first, 10)
        served.append(first)
    assert "".join(served) == "BABA"


def test_callers_that_come_one_after_the_other_keep_none_waiting() -> None:
    turns: Turns[str] = Turns()
    served = []
    for number in range(6):
        first = turns.order(["A", f"caller {number}"])[0]
        turns.charge(first, 10)
        served.append(first)
    assert served.count("A") == 3


def test_callers_that_are_gone_are_forgotten() -> None:
    turns = Turns()
    for number in range(100):
        turns.order([f"caller {number}"])
        turns.charge(f"caller {number}", 1)
    assert len(turns._shares) == 1
    assert turns.order([]) == []
    assert not turns._shares
