"""Masks are computed beside the model: by the thread, by the loop, and never without an answer."""

from __future__ import annotations

import threading

import pytest

from tailrace.engine.structured import mask_thread
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.mask_thread import MaskThread
from tailrace.errors import ConfigurationError


class Meeting:
    """Constraints whose masks can only be computed by two threads at once."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=20)
        self.computed = 0

    def compute_or_fail(self) -> None:
        self._barrier.wait()
        self.computed += 1


class Counter:
    """A constraint whose mask is quickly computed."""

    def __init__(self) -> None:
        self.computed = 0

    def compute_or_fail(self) -> None:
        self.computed += 1


def broken() -> Constraint:
    """A constraint whose matcher fails otherwise than by its own error."""
    constraint = Constraint.__new__(Constraint)

    class Matcher:
        def unsafe_compute_mask_ptr(self, address: int, size: int) -> None:
            raise ValueError("a defect")

        def is_error(self) -> bool:
            return False

    Constraint.__init__(constraint, Matcher(), 64)  # type: ignore[arg-type]  # a stand-in for the matcher
    return constraint


def test_masks_that_the_thread_has_not_begun_are_computed_by_the_loop() -> None:
    masks = MaskThread(frozenset())
    meeting = Meeting()
    masks.start([meeting, meeting])  # type: ignore[list-item]  # stand-ins for constraints
    masks.wait()
    masks.close()
    assert meeting.computed == 2


def test_a_mask_that_can_not_be_computed_fails_its_reply_alone() -> None:
    masks = MaskThread(frozenset())
    for _ in range(3):
        defect, counter = broken(), Counter()
        masks.start([defect, counter, defect, counter])  # type: ignore[list-item]  # stand-ins for constraints
        masks.wait()
        assert counter.computed == 2
        with pytest.raises(GrammarError, match="a defect"):
            defect.mask()
    masks.close()


def test_masks_are_computed_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    masks = MaskThread(frozenset())
    counter = Counter()
    masks.start([counter])  # type: ignore[list-item]  # stand-ins for constraints
    masks.wait()
    masks.close()
    assert counter.computed == 1


def test_the_thread_works_where_it_can_not_be_bound_to_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cpus: object) -> None:
        raise ConfigurationError("threads can't be bound to CPUs")

    monkeypatch.setattr(mask_thread, "bind_cpus", refuse)
    masks = MaskThread(frozenset({0}))
    meeting = Meeting()
    masks.start([meeting, meeting])  # type: ignore[list-item]  # stand-ins for constraints
    masks.wait()
    masks.close()
    assert meeting.computed == 2
