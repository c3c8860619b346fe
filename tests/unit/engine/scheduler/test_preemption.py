"""Fairness between callers: whose sequences start, are paused, and get prompt tokens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulated_scheduler import MIXED_BUDGET, SimulatedMachine, sequence_of, unlike
from tailrace.engine.scheduler.preemption import MIN_STEPS
from tailrace.engine.scheduler.prompt_scheduler import _PRESENT_STEPS
from tailrace.engine.scheduler.scheduler import _MAX_OVERTAKING_STEPS
from tailrace.engine.sequence import NO_SLOT, Sequence

_LAYOUTS = [{}, {"fixed": True}, {"always_shared": True}]


def _add(machine: SimulatedMachine, identity: int, caller: str, length: int = 4, priority: int = 0) -> Sequence:
    sequence = sequence_of(identity, unlike(identity, length), caller=caller, priority=priority)
    machine.scheduler.add(sequence)
    return sequence


def _compute_prompts(machine: SimulatedMachine) -> None:
    while not all(sequence.generated for sequence in machine.scheduler.running):
        machine.step()


def _running(machine: SimulatedMachine) -> dict[str, int]:
    return dict(Counter(sequence.caller for sequence in machine.scheduler.running))


def test_one_request_waits_for_one_of_another_caller_s_hundred() -> None:
    machine = SimulatedMachine(slots=1)
    greedy = [_add(machine, number, "A") for number in range(1, 101)]
    machine.step()
    other = _add(machine, 101, "B")
    machine.step()
    assert other.slot == NO_SLOT, "the only slot is A's, and no caller has more"
    machine.scheduler.remove(greedy[0])
    machine.step()
    assert machine.scheduler.running == [other]
    machine.scheduler.remove(other)
    machine.step()
    assert machine.scheduler.running == [greedy[1]]


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_a_caller_with_nothing_running_takes_a_place_in_the_next_step(layout: dict[str, bool]) -> None:
    machine = SimulatedMachine(**layout)
    greedy = [_add(machine, number, "A") for number in range(1, 101)]
    for _ in range(10):
        machine.step()
    said = greedy[3].generated
    other = _add(machine, 101, "B")
    machine.step()
    assert other.generated == 1
    assert _running(machine) == {"A": 3, "B": 1}
    assert greedy[3].slot == NO_SLOT, "the youngest of those with equally many tokens"
    machine.scheduler.remove(other)
    machine.step()
    assert greedy[3].generated == said + 1, "its tokens were in the prefix cache"
    assert machine.scheduler.counters.preemptions == 1


def test_places_are_shared_evenly_and_then_no_sequence_is_paused_any_more() -> None:
    machine = SimulatedMachine(slots=6, cells=4096)
    for number in range(1, 30):
        _add(machine, number, "A")
    machine.step()
    for number in range(30, 60):
        _add(machine, number, "B")
    for _ in range(5):
        machine.step()
    assert _running(machine) == {"A": 3, "B": 3}
    _add(machine, 60, "C")
    for _ in range(5):
        machine.step()
    assert sorted(_running(machine).items()) in ([("A", 2), ("B", 3), ("C", 1)], [("A", 3), ("B", 2), ("C", 1)])
    paused = machine.scheduler.counters.preemptions
    for _ in range(3 * MIN_STEPS):
        machine.step()
    assert machine.scheduler.counters.preemptions == paused


def test_priorities_count_within_a_caller_alone() -> None:
    machine = SimulatedMachine(slots=4)
    for number in range(1, 9):
        _add(machine, number, "A", priority=-100)
    machine.step()
    patient = _add(machine, 9, "B", priority=100)
    machine.step()
    assert patient.generated == 1
    _add(machine, 10, "B", priority=-1000)
    machine.step()
    assert _running(machine) == {"A": 2, "B": 2}
    # A more urgent request of A takes A's place, and not one of B's.
    urgent = _add(machine, 11, "A", priority=-101)
    machine.step()
    assert urgent.slot != NO_SLOT
    assert patient.slot != NO_SLOT
    assert _running(machine) == {"A": 2, "B": 2}


def test_of_a_caller_the_least_urgent_is_paused_then_the_one_with_the_fewest_tokens() -> None:
    machine = SimulatedMachine(slots=3)
    _add(machine, 1, "A", length=30, priority=1)
    _add(machine, 2, "A", length=50)
    _add(machine, 3, "A", length=4, priority=1)
    for _ in range(4):
        machine.step()
    _add(machine, 4, "B")
    machine.step()
    assert sorted(sequence.id for sequence in machine.scheduler.running) == [1, 2, 4]
    _add(machine, 5, "C")
    machine.step()
    assert sorted(sequence.id for sequence in machine.scheduler.running) == [2, 4, 5]
    _add(machine, 6, "D")
    machine.step()
    assert sorted(sequence.id for sequence in machine.scheduler.running) == [2, 4, 5], "no caller has two more than D"


def test_a_resumed_sequence_runs_for_a_while_before_it_is_paused_again() -> None:
    """B's short requests follow each other with small gaps; each one takes a place from A, which gets it back."""
    machine = SimulatedMachine(slots=2, cells=8192, context=4000, host_tokens=100_000)
    own = [_add(machine, number, "A") for number in (1, 2)]
    machine.step()
    paused_at: dict[int, int] = {}
    ran_for: list[int] = []
    running_since = dict.fromkeys((1, 2), 0)
    waited: list[int] = []
    identity = 100
    other: Sequence | None = None
    for step in range(1, 2000):
        if other is None and step % 4 == 0:
            identity += 1
            other = _add(machine, identity, "B")
            asked = step
        machine.step()
        for sequence in own:
            if sequence.slot == NO_SLOT and sequence.id not in paused_at:
                paused_at[sequence.id] = step
                ran_for.append(step - running_since[sequence.id])
            elif sequence.slot != NO_SLOT and sequence.id in paused_at:
                del paused_at[sequence.id]
                running_since[sequence.id] = step
        if other is not None and other.generated:
            waited.append(step - asked)
            machine.scheduler.remove(other)
            other = None
    assert min(ran_for[2:]) >= MIN_STEPS, "but for the first pause of each"
    assert max(waited) <= MIN_STEPS
    assert min(sequence.generated for sequence in own) > 500, "neither of A's starves"
    assert len(waited) > 100
    assert machine.reused > 500


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_the_number_of_pauses_is_bounded_whatever_the_load(layout: dict[str, bool]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(1, 60), st.integers(1, 80), st.sampled_from("AAAAABBCDE"), st.integers(0, 9)),
            min_size=5,
            max_size=40,
        ),
        st.integers(1, 6),
    )
    def run(loads: list[tuple[int, int, str, int]], slots: int) -> None:
        machine = SimulatedMachine(slots=slots, cells=8192, host_tokens=100_000, **layout)
        wanted: dict[int, tuple[Sequence, int]] = {}
        arrivals = list(enumerate(loads, 1))
        steps = 0
        while arrivals or wanted:
            while arrivals and (not wanted or arrivals[0][1][3] < 7):
                identity, (length, tokens, caller, _) = arrivals.pop(0)
                wanted[identity] = _add(machine, identity, caller, length), tokens
            arrivals[:1] = [(identity, (*load[:3], load[3] - 1)) for identity, load in arrivals[:1]]
            plan = machine.step()
            steps += 1
            for sequence, _ in plan.scheduled:
                if sequence.generated >= wanted[sequence.id][1]:
                    machine.scheduler.remove(sequence)
                    del wanted[sequence.id]
        assert machine.scheduler.counters.preemptions <= len(loads) + steps * slots / MIN_STEPS

    run()


def test_a_prompt_is_computed_in_the_next_step_whatever_prompts_another_caller_has() -> None:
    machine = SimulatedMachine(cells=8192, context=4000)
    prompts = [_add(machine, number, "A", length=900) for number in (1, 2, 3)]
    machine.step()
    other = _add(machine, 4, "B", length=40)
    chunks = {sequence.id: count for sequence, count in machine.step().scheduled}
    assert chunks == {4: 40, 1: 24}, "and the rest of the step is A's"
    assert other.generated == 1
    assert sum(prompt.computed for prompt in prompts) == 64 + 24


def test_beside_replies_a_prompt_gets_the_whole_budget_first() -> None:
    machine = SimulatedMachine(slots=6, cells=8192, context=4000)
    _add(machine, 1, "A")
    machine.step()
    for number in (2, 3, 4):
        _add(machine, number, "A", length=900)
    machine.step()
    _add(machine, 5, "B", length=MIXED_BUDGET)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {1: 1, 5: MIXED_BUDGET}


@pytest.mark.parametrize("with_reply", [False, True])
def test_long_prompts_of_two_callers_share_the_prompt_tokens(with_reply: bool) -> None:
    """They get equally many, or a caller with a reply half as many as the one that waits for its first token."""
    machine = SimulatedMachine(slots=8, cells=16384, context=4000)
    _add(machine, 1, "C")
    if with_reply:
        _add(machine, 2, "A")
    machine.step()
    greedy = [_add(machine, number, "A", length=900) for number in (3, 4, 5)]
    machine.step()
    other = _add(machine, 6, "B", length=900)
    before = sum(prompt.computed for prompt in greedy)
    for _ in range(42):
        machine.step()
    assert other.computed == pytest.approx((28 if with_reply else 21) * MIXED_BUDGET, abs=MIXED_BUDGET)
    assert sum(prompt.computed for prompt in greedy) - before + other.computed == 42 * MIXED_BUDGET


def test_a_prompt_that_another_caller_waits_for_is_computed_first() -> None:
    machine = SimulatedMachine(cells=8192, context=4000)
    for number in (1, 2):
        _add(machine, number, "A", length=900)
    shared = _add(machine, 3, "A", length=500)
    machine.step()
    assert shared.computed == 0
    other = sequence_of(4, [*shared.tokens[:100], 5, 6], caller="B")
    machine.scheduler.add(other)
    steps = 0
    while not other.generated:
        machine.step()
        steps += 1
    # Two chunks of 64 have the shared 100 tokens, and a third one has the rest. A's other prompts take turns with them.
    assert steps <= 6
    assert other.cached_tokens is not None
    assert other.cached_tokens >= 64


def test_a_sequence_that_lacks_cells_does_not_keep_other_callers_waiting() -> None:
    machine = SimulatedMachine(slots=4, cells=1024, context=1024, always_shared=True, prefill_chunk=128)
    own = _add(machine, 1, "B", length=300)
    machine.step()
    _compute_prompts(machine)
    large = _add(machine, 2, "A", length=900)
    machine.step()
    assert large.slot == NO_SLOT
    for identity in range(3, 8):
        other = _add(machine, identity, "B", length=MIXED_BUDGET)
        machine.step()
        assert other.generated == 1, "it starts at once"
        machine.scheduler.remove(other)
    machine.scheduler.remove(own)
    machine.step()
    assert large.slot != NO_SLOT


def test_a_sequence_that_lacks_cells_is_not_overtaken_for_ever() -> None:
    machine = SimulatedMachine(slots=4, cells=1024, context=1024, always_shared=True, prefill_chunk=128)
    identity = 1
    replies = [_add(machine, identity, "B", length=200)]
    machine.step()
    large = _add(machine, 2, "A", length=900)
    identity = 2
    steps = 0
    while large.slot == NO_SLOT:
        steps += 1
        assert steps < _MAX_OVERTAKING_STEPS + 200
        if steps % 30 == 0:
            identity += 1
            replies.append(_add(machine, identity, "B", length=200))
        machine.step()
        for reply in [reply for reply in replies if reply.generated > 40]:
            machine.scheduler.remove(reply)
            replies.remove(reply)
    assert steps > 500


def test_sequences_of_a_caller_with_many_are_paused_for_another_one_s_cells() -> None:
    machine = SimulatedMachine(slots=6, cells=1024, context=1000, always_shared=True, prefill_chunk=128)
    for number in range(1, 5):
        _add(machine, number, "A", length=230)
    machine.step()
    _compute_prompts(machine)
    assert _running(machine) == {"A": 4}
    other = _add(machine, 5, "B", length=150)
    while not other.generated:
        machine.step()
    assert _running(machine) == {"A": 3, "B": 1}


def test_no_sequence_is_paused_for_one_that_would_not_fit_all_the_same() -> None:
    machine = SimulatedMachine(slots=6, cells=1024, context=1000, always_shared=True, prefill_chunk=128)
    for number in range(1, 4):
        _add(machine, number, "A", length=250)
    machine.step()
    _compute_prompts(machine)
    _add(machine, 5, "B", length=900)
    machine.step()
    assert _running(machine) == {"A": 3}
    assert machine.scheduler.counters.preemptions == 0


def test_when_cells_run_out_the_caller_with_the_most_sequences_yields() -> None:
    machine = SimulatedMachine(slots=4, cells=512, context=512, always_shared=True, prefill_chunk=128)
    for number in (1, 2):
        _add(machine, number, "A", length=120, priority=-1)
    other = _add(machine, 3, "B", length=120, priority=5)
    while not machine.scheduler.counters.preemptions:
        machine.step()
    assert other.slot != NO_SLOT
    assert _running(machine) == {"A": 1, "B": 1}


def test_a_more_urgent_sequence_that_waits_for_a_shared_prompt_pauses_none() -> None:
    machine = SimulatedMachine(slots=2, cells=4096)
    first = _add(machine, 1, "A", length=500)
    _add(machine, 2, "A")
    machine.step()
    machine.scheduler.add(sequence_of(3, [*first.tokens[:400], 5], caller="A", priority=-1))
    machine.step()
    assert [sequence.id for sequence in machine.scheduler.running] == [1, 2]


def test_the_first_prompt_of_a_caller_is_computed_without_others_replies() -> None:
    machine = SimulatedMachine(slots=6, cells=8192, context=4000, first_prompt_budget=50)
    for number in (1, 2):
        _add(machine, number, "A")
    machine.step()
    machine.scheduler.running[0].draft = [5, 5]
    _add(machine, 3, "A", length=900)
    _add(machine, 4, "B", length=40)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {4: 40}
    assert machine.scheduler.running[0].draft == []
    # A caller that comes right after it doesn't stop the replies for another step.
    _add(machine, 5, "C", length=40)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {1: 1, 2: 1, 4: 1, 3: MIXED_BUDGET}
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {5: 40}


def test_a_first_prompt_that_takes_several_steps_stops_no_reply() -> None:
    machine = SimulatedMachine(slots=6, cells=8192, context=4000, first_prompt_budget=50)
    _add(machine, 1, "A")
    machine.step()
    _add(machine, 2, "B", length=60)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {1: 1, 2: MIXED_BUDGET}
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {2: 60 - MIXED_BUDGET}


def test_a_greedy_caller_s_prompt_ends_within_the_budget_while_another_caller_is_present() -> None:
    machine = SimulatedMachine(slots=6, cells=8192, context=4000, last_chunk_budget=50)
    _add(machine, 1, "A")
    machine.step()
    _add(machine, 2, "A", length=40)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {1: 1, 2: 40}, "it is alone"
    machine.scheduler.add(other := sequence_of(3, [5], caller="B"))
    machine.step()
    machine.scheduler.remove(other)
    _add(machine, 4, "A", length=40)
    assert {sequence.id: count for sequence, count in machine.step().scheduled} == {1: 1, 2: 1, 4: MIXED_BUDGET}
    for _ in range(_PRESENT_STEPS):
        machine.step()
    for sequence in list(machine.scheduler.running):  # Beside replies that have gone on for long it would wait, too.
        machine.scheduler.remove(sequence)
    _add(machine, 6, "A")
    machine.step()
    _add(machine, 5, "A", length=40)
    assert (5, 40) in [(sequence.id, count) for sequence, count in machine.step().scheduled]


def test_a_plan_is_reused_only_until_the_sequence_that_makes_enough_space_may_be_paused() -> None:
    machine = SimulatedMachine(slots=3, cells=512, fixed=True)
    _add(machine, 1, "A", 30)
    long = _add(machine, 2, "A", 300, priority=1)
    machine.step()
    _compute_prompts(machine)
    other = _add(machine, 3, "B", 240)
    # The short sequence alone makes too little space, and A keeps a place.
    long.resumed_at_step = machine.scheduler._step
    for _ in range(MIN_STEPS - 1):
        machine.step()
        assert other.slot == NO_SLOT
    machine.step()  # The machine checks that plans are reused only while planning gives the same.
    assert other.slot != NO_SLOT
    assert machine.reused > 0
