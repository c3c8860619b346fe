"""Masks are computed beside the loop: it never waits long for one, and each is computed in the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from tailrace.engine.structured import mask_threads
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.mask_threads import MaskReady, MaskThreads
from tailrace.errors import ConfigurationError


class Counter(Constraint):
    """A constraint whose mask is computed when ``gate`` is open."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.computed = 0
        self.begun = threading.Event()
        self.last_seconds = 0.0
        self._gate = gate

    def compute_or_fail(self) -> None:
        self.begun.set()
        if self._gate is not None:
            assert self._gate.wait(20)
        self.computed += 1


def broken() -> Constraint:
    """A constraint whose matcher fails otherwise than by its own error."""

    class Matcher:
        def unsafe_compute_mask_ptr(self, address: int, size: int) -> None:
            raise ValueError("a defect")

        def is_error(self) -> bool:
            return False

    return Constraint(Matcher(), 64)  # type: ignore[arg-type]  # a stand-in for the matcher


class Masks:
    """A mask thread and its announcements."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[MaskReady] = queue.SimpleQueue()
        self.thread = MaskThreads(frozenset(), self.ready.put)


@pytest.fixture
def masks() -> Iterator[Masks]:
    masks = Masks()
    yield masks
    masks.thread.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def test_all_masks_of_a_step_are_computed(masks: Masks) -> None:
    for _ in range(3):
        counters = [Counter() for _ in range(5)]
        masks.thread.start(enumerate(counters))
        assert masks.thread.wait(None) == []
        assert [counter.computed for counter in counters] == [1] * 5
    assert masks.ready.empty()


def test_a_late_mask_holds_up_no_other_and_is_announced(masks: Masks, gate: threading.Event) -> None:
    late = Counter(gate)
    masks.thread.start([(7, late)])
    assert late.begun.wait(20)
    assert masks.thread.wait(0.0) == [7]
    assert masks.ready.empty()
    for identity in range(3):
        quick = Counter()
        masks.thread.start([(identity, quick)])
        assert masks.thread.wait(None) == []
        assert quick.computed == 1
    gate.set()
    assert masks.ready.get(timeout=20) == MaskReady(7)


def test_a_mask_behind_a_late_one_is_computed_by_the_next_thread(masks: Masks, gate: threading.Event) -> None:
    late, behind = Counter(gate), Counter()
    behind.last_seconds = 1.0
    masks.thread.start([(1, late), (2, behind)])
    assert late.begun.wait(20)
    assert masks.thread.wait(0.0) == [1, 2]
    assert masks.ready.get(timeout=20) == MaskReady(2)
    gate.set()
    assert masks.ready.get(timeout=20) == MaskReady(1)


def test_the_number_of_threads_with_late_masks_is_bounded(masks: Masks, gate: threading.Event) -> None:
    before = threading.active_count()
    for identity in range(20):
        masks.thread.start([(identity, Counter(gate))])
        assert masks.thread.wait(0.01) == [identity]
    assert threading.active_count() <= before + 1 + mask_threads._MAX_LATE
    gate.set()
    assert {masks.ready.get(timeout=20).id for _ in range(20)} == set(range(20))


def test_slow_masks_are_computed_one_after_the_other_and_announced(masks: Masks, gate: threading.Event) -> None:
    slow = [Counter(gate), Counter()]
    for identity, counter in enumerate(slow):
        masks.thread.start_slow(identity, counter)
    assert slow[0].begun.wait(20)
    quick = Counter()
    masks.thread.start([(9, quick)])
    assert masks.thread.wait(None) == []
    assert not slow[1].begun.is_set()
    gate.set()
    assert [masks.ready.get(timeout=20).id for _ in range(2)] == [0, 1]


def test_a_mask_that_can_not_be_computed_fails_its_reply_alone(masks: Masks) -> None:
    for _ in range(3):
        defect, counter = broken(), Counter()
        masks.thread.start([(1, defect), (2, counter)])
        assert masks.thread.wait(None) == []
        assert counter.computed == 1
        with pytest.raises(GrammarError, match="a defect"):
            defect.mask()


def test_masks_are_computed_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, masks: Masks) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    quick, slow = Counter(), Counter()
    masks.thread.start([(1, quick)])
    assert masks.thread.wait(None) == []
    masks.thread.start_slow(2, slow)
    assert (quick.computed, slow.computed) == (1, 1)
    assert masks.ready.get_nowait() == MaskReady(2)


def test_the_thread_works_where_it_can_not_be_bound_to_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cpus: object) -> None:
        raise ConfigurationError("threads can't be bound to CPUs")

    monkeypatch.setattr(mask_threads, "bind_cpus", refuse)
    masks = MaskThreads(frozenset({0}))
    counter = Counter()
    masks.start([(1, counter)])
    assert masks.wait(None) == []
    masks.close()
    assert counter.computed == 1
