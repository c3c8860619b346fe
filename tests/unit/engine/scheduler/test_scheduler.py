"""The scheduler's policy, without a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulated_scheduler import MIXED_BUDGET, SimulatedMachine, sequence_of, unlike
from tailrace.engine.kv_cache.cache_ops import Evict, Swap
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.sequence import NO_SLOT, Sequence

#: Length of the prompt, tokens of the reply, whether its prompt begins as others do, priority and caller.
_Load = tuple[int, int, bool, int, str]


def test_a_prompt_is_computed_in_chunks_and_then_a_step_decodes_one_token() -> None:
    machine = SimulatedMachine()
    machine.scheduler.add(sequence := sequence_of(1, unlike(1, 150)))
    counts = [machine.step().scheduled[0][1] for _ in range(5)]
    assert counts == [64, 64, 22, 1, 1]
    assert sequence.generated == 3


def test_beside_a_decoding_sequence_a_long_prompt_gets_small_chunks() -> None:
    machine = SimulatedMachine()
    machine.scheduler.add(stream := sequence_of(1, unlike(1, 10)))
    machine.step()
    machine.scheduler.add(reader := sequence_of(2, unlike(2, 100)))
    for _ in range(5):
        chunks = {sequence.id: count for sequence, count in machine.step().scheduled}
        assert chunks == {1: 1, 2: MIXED_BUDGET}
    assert stream.generated == 6
    assert reader.generated == 0


def test_waiting_sequences_start_in_order_when_a_slot_is_free() -> None:
    machine = SimulatedMachine(slots=2)
    sequences = [sequence_of(number, unlike(number, 4)) for number in range(1, 5)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    machine.step()
    assert [sequence.slot != NO_SLOT for sequence in sequences] == [True, True, False, False]
    machine.scheduler.remove(sequences[0])
    machine.step()
    assert [sequence.slot != NO_SLOT for sequence in sequences[1:]] == [True, True, False]


def test_a_prompt_in_progress_is_waited_for_and_shared() -> None:
    machine = SimulatedMachine()
    prompt = unlike(1, 150)
    machine.scheduler.add(sequence_of(1, prompt))
    machine.scheduler.add(second := sequence_of(2, prompt))
    for _ in range(2):
        assert [sequence.id for sequence, _ in machine.step().scheduled] == [1]
    # The last 22 tokens aren't worth waiting for.
    assert [sequence.id for sequence, _ in machine.step().scheduled] == [1, 2]
    assert second.cached_tokens == 128


@pytest.mark.parametrize("fixed", [False, True], ids=["partitioned", "shared"])
def test_a_sequence_whose_whole_prompt_is_cached_decodes_in_the_step_that_admits_it(fixed: bool) -> None:
    machine = SimulatedMachine(fixed=fixed)
    prompt = unlike(1, 32)
    machine.scheduler.add(sequence_of(1, prompt))
    machine.step()
    newcomers = [sequence_of(2, prompt), sequence_of(3, prompt)]
    for sequence in newcomers:
        machine.scheduler.add(sequence)
    assert sorted((sequence.id, count) for sequence, count in machine.step().scheduled) == [(1, 1), (2, 1), (3, 1)]
    assert [sequence.generated for sequence in newcomers] == [1, 1]


def test_max_tokens_reserves_nothing() -> None:
    machine = SimulatedMachine(cells=256)
    sequences = [sequence_of(number, unlike(number, 10), max_tokens=900) for number in range(1, 5)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    machine.step()
    assert len(machine.scheduler.running) == 4


def test_partitions_grow_with_the_longest_sequence_and_only_then() -> None:
    machine = SimulatedMachine(cells=4096)
    assert machine.cache.layout == Layout(4, 512)
    machine.scheduler.add(sequence_of(1, unlike(1, 300)))
    machine.step()
    assert machine.cache.layout == Layout(4, 512)
    machine.scheduler.add(sequence_of(2, unlike(2, 700)))
    machine.step()
    assert machine.cache.layout == Layout(4, 1024)


def test_one_long_context_may_use_all_cells_and_shares_them_with_short_ones() -> None:
    machine = SimulatedMachine(cells=1024, context=1024)
    machine.scheduler.add(sequence_of(1, unlike(1, 900)))
    machine.step()
    assert machine.cache.layout == Layout(1, 1024)
    for number in (2, 3):
        machine.scheduler.add(sequence_of(number, unlike(number, 20)))
    machine.step()
    assert machine.cache.layout.shared
    assert len(machine.scheduler.running) == 3


def test_a_smaller_load_goes_from_shared_cells_back_to_partitions() -> None:
    machine = SimulatedMachine(cells=2048, context=2048)
    machine.scheduler.add(long := sequence_of(1, unlike(1, 1900)))
    machine.step()
    for number in (2, 3):
        machine.scheduler.add(sequence_of(number, unlike(number, 20)))
    machine.step()
    machine.scheduler.remove(long)
    machine.step()
    assert not machine.cache.layout.shared
    assert len(machine.scheduler.running) == 2


def test_decoding_sequences_move_to_adjacent_slots_when_one_between_them_ends() -> None:
    machine = SimulatedMachine(slots=8, cells=8192)
    sequences = [sequence_of(number, unlike(number, 5)) for number in range(1, 9)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    for _ in range(3):
        machine.step()
    for number in (0, 2, 5):
        machine.scheduler.remove(sequences[number])
    plan = machine.step()  # The machine checks that they stand side by side.
    assert len([move for move in plan.cache_ops if isinstance(move, Swap)]) in (1, 2)
    assert len(plan.scheduled) == 5


def test_a_short_prompt_does_not_wait_for_a_long_one_that_came_first() -> None:
    machine = SimulatedMachine(cells=8192)
    machine.scheduler.add(sequence_of(1, unlike(1, 10)))
    machine.step()
    machine.scheduler.add(long := sequence_of(2, unlike(2, 900)))
    machine.scheduler.add(short := sequence_of(3, unlike(3, 40)))
    steps = 0
    while not short.generated:
        machine.step()
        steps += 1
    assert steps <= 2 * -(-40 // MIXED_BUDGET)
    assert long.computed > 0, "nor does the long one stop"


def test_a_prompt_that_fits_the_last_chunk_budget_is_computed_at_once_beside_young_replies() -> None:
    machine = SimulatedMachine(cells=8192)
    machine.scheduler.add(sequence_of(1, unlike(1, 10)))
    machine.step()
    for number, length in ((2, 900), (3, 40), (4, 30), (5, 30)):
        machine.scheduler.add(sequence_of(number, unlike(number, length)))
    chunks = {
        sequence.id: count for sequence, count in machine.scheduler.plan(MIXED_BUDGET, last_chunk_budget=80).scheduled
    }
    assert chunks == {1: 1, 2: MIXED_BUDGET, 3: 40} or chunks == {1: 1, 3: 40, 4: 30}


def test_no_prompt_s_end_makes_a_long_gap_in_a_reply_that_has_gone_on_for_a_while() -> None:
    machine = SimulatedMachine(cells=8192)
    reply = sequence_of(1, unlike(1, 10), max_tokens=200)
    machine.scheduler.add(reply)
    while reply.generated < 20:
        machine.step()
    machine.scheduler.add(sequence_of(2, unlike(2, MIXED_BUDGET + 20)))
    plan = machine.scheduler.plan(MIXED_BUDGET, last_chunk_budget=80)
    assert {sequence.id: count for sequence, count in plan.scheduled} == {1: 1, 2: MIXED_BUDGET}


def test_the_smaller_priority_is_admitted_first_and_takes_a_running_one_s_place() -> None:
    machine = SimulatedMachine(slots=2)
    for number in (1, 2, 3):
        machine.scheduler.add(sequence_of(number, unlike(number, 5)))
    machine.step()
    urgent = sequence_of(4, unlike(4, 5), priority=-1)
    machine.scheduler.add(urgent)
    machine.step()
    assert [sequence.id for sequence in machine.scheduler.running] == [1, 4]
    assert [sequence.id for sequence in machine.scheduler.waiting] == [2, 3]
    assert machine.scheduler.counters.preemptions == 1


def test_cached_prefixes_are_evicted_before_a_running_sequence_is_paused() -> None:
    machine = SimulatedMachine(cells=256, fixed=True)
    machine.run(sequence_of(1, unlike(1, 150)))
    machine.scheduler.add(sequence_of(2, unlike(2, 180)))
    plan = machine.step()
    assert any(isinstance(move, Evict) for move in plan.cache_ops)
    assert machine.scheduler.counters.preemptions == 0


def test_when_cells_run_out_the_youngest_is_paused_and_comes_back() -> None:
    machine = SimulatedMachine(cells=256, slots=2, prefill_chunk=32)
    older, younger = sequence_of(1, unlike(1, 120)), sequence_of(2, unlike(2, 120))
    for sequence in (older, younger):
        machine.scheduler.add(sequence)
    while not machine.scheduler.counters.preemptions:
        machine.step()
    assert machine.scheduler.running == [older]
    assert list(machine.scheduler.waiting) == [younger]
    said = younger.generated
    assert said > 0
    machine.scheduler.remove(older)
    while younger.generated == said:
        machine.step()
    assert machine.scheduler.running == [younger]


def test_in_shared_cells_a_cached_prefix_is_offloaded_while_others_run_and_is_found_again() -> None:
    machine = SimulatedMachine(fixed=True)
    conversation = unlike(1, 50)
    machine.run(sequence_of(1, conversation))
    machine.scheduler.add(sequence_of(2, unlike(2, 10)))
    machine.step()
    assert machine.cache.used_cells == 10, "no token attends past a conversation that waits for its next turn"
    machine.scheduler.add(second := sequence_of(3, [*conversation, 5, 6]))
    machine.step()
    assert second.cached_tokens == 50


def test_an_offloaded_prefix_survives_the_eviction_that_frees_its_slot() -> None:
    machine = SimulatedMachine(slots=1, host_tokens=60)
    conversation = unlike(1, 50)
    machine.run(sequence_of(1, conversation))
    machine.run(sequence_of(2, unlike(2, 40)))
    assert machine.run(sequence_of(3, [*conversation, 5, 6])).cached_tokens == 50


def test_a_short_match_does_not_evict_a_long_conversation() -> None:
    machine = SimulatedMachine(slots=1)
    conversation = unlike(1, 100)
    machine.run(sequence_of(1, conversation))
    machine.run(sequence_of(2, [*conversation[:20], 7, 8, 9]))
    assert machine.run(sequence_of(3, [*conversation, 5])).cached_tokens == 100


@pytest.mark.parametrize("fixed", [False, True])
def test_a_plan_is_reused_while_each_sequence_has_one_token_and_cells_are_free(fixed: bool) -> None:
    machine = SimulatedMachine(slots=2, cells=512, fixed=fixed)
    for number in (1, 2):
        machine.scheduler.add(sequence_of(number, unlike(number, 4)))
    steps = 0
    while not machine.scheduler.counters.preemptions and machine.cache.layout.total == 512 and steps < 300:
        machine.step()
        steps += 1
    # Each has 256 cells, 4 of them for the prompt. The step after the prompts is planned, and so is the last one.
    assert machine.reused == 256 - 4 - 1


def test_a_cache_that_grows_in_place_keeps_the_cached_prefixes() -> None:
    machine = SimulatedMachine(in_place=True)
    conversation = unlike(1, 60)
    machine.run(sequence_of(1, conversation))
    machine.scheduler.add(long := sequence_of(2, unlike(2, 300)))
    while not long.generated:
        machine.step()
    assert machine.cache.layout.cells == 512
    assert machine.offloaded == {}
    assert machine.run(sequence_of(3, [*conversation, 5, 6])).cached_tokens == 60


def test_a_plan_is_not_reused_for_other_sequences_or_for_more_than_one_token() -> None:
    machine = SimulatedMachine()
    machine.scheduler.add(first := sequence_of(1, unlike(1, 4)))
    for _ in range(4):
        machine.step()
    assert machine.reused == 2
    first.draft = [5]
    assert not machine.scheduler.can_reuse_plan()
    first.draft = []
    first.tokens.append(5)  # as a grammar does
    first.jump_forward = 1
    assert not machine.scheduler.can_reuse_plan()
    del first.tokens[-1]
    first.jump_forward = 0
    assert machine.scheduler.can_reuse_plan()
    machine.scheduler.add(second := sequence_of(2, unlike(2, 4)))
    assert not machine.scheduler.can_reuse_plan()
    for _ in range(2):
        assert len(machine.step().scheduled) == 2
    assert machine.scheduler.can_reuse_plan()
    machine.scheduler.remove(second)
    assert not machine.scheduler.can_reuse_plan()


def test_a_plan_is_reused_while_sequences_wait_for_a_slot() -> None:
    machine = SimulatedMachine(slots=2)
    for number in (1, 2, 3):
        machine.scheduler.add(sequence_of(number, unlike(number, 4)))
    for _ in range(6):
        machine.step()
    assert machine.reused == 4
    assert len(machine.scheduler.waiting) == 1


def test_every_sequence_ends_whatever_the_load() -> None:
    """Prompts of several callers, with and without common beginnings, urgent and not, through a cache that is always
    too small.
    """
    reused = 0

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 400), st.integers(1, 60), st.booleans(), st.integers(0, 1), st.sampled_from("AAABC")
            ),
            max_size=14,
        ),
        st.integers(1, 6),
        st.integers(1, 6),
        st.integers(0, 600),
        st.sampled_from(["partitioned", "shared", "growing shared", "growing in place"]),
    )
    def run(loads: list[_Load], grains: int, slots: int, host_tokens: int, layout: str) -> None:
        nonlocal reused
        reused += _run_to_the_end(loads, grains, slots, host_tokens, layout)

    run()
    assert reused > 300, "most steps without a prompt reuse the plan"


def _run_to_the_end(loads: list[_Load], grains: int, slots: int, host_tokens: int, layout: str) -> int:
    """How many steps reused the plan before."""
    cells = 256 * grains
    machine = SimulatedMachine(
        slots=slots,
        cells=cells,
        context=cells,
        prefill_chunk=24,
        host_tokens=host_tokens,
        fixed=layout == "shared",
        always_shared=layout == "growing shared",
        in_place=layout == "growing in place",
    )
    pending: dict[int, tuple[Sequence, int]] = {}
    for identity, (length, wanted, shared, priority, caller) in enumerate(loads, 1):
        prompt = unlike(1 if shared else identity + 1, min(length, cells - 64))
        pending[identity] = sequence, _ = sequence_of(identity, prompt, priority=priority, caller=caller), wanted
        machine.scheduler.add(sequence)
        if identity % 3 == 0:
            _step_and_end(machine, pending)
    for _ in range(20_000):
        if not machine.scheduler.has_work:
            break
        _step_and_end(machine, pending)
    assert not pending
    return machine.reused


def _step_and_end(machine: SimulatedMachine, pending: dict[int, tuple[Sequence, int]]) -> None:
    plan = machine.step()
    assert plan.scheduled, "a step with work to do makes progress"
    for sequence, _ in plan.scheduled:
        if sequence.generated >= pending[sequence.id][1]:
            machine.scheduler.remove(sequence)
            del pending[sequence.id]
