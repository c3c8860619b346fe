"""The scheduler's policy, without a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import CacheOp, Evict, Relayout, Swap
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.scheduler.plan import Plan
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.protocol import GenerationParams, Sampling, Submit

BUSY = 16


def _sequence(identity: int, tokens: list[int], max_tokens: int | None = None, priority: int = 0) -> Sequence:
    submit = Submit(
        id=identity,
        prompt=tokens,
        params=GenerationParams(max_tokens=max_tokens, sampling=Sampling(temperature=0.0), priority=priority),
    )
    return Sequence(submit, list(tokens), 1000, frozenset())


def _unlike(identity: int, length: int) -> list[int]:
    """A prompt that shares no beginning with another identity's."""
    return [identity * 10_000 + position for position in range(length)]


class _Machine:
    """A scheduler with its cache, whose steps are carried out as the loop does."""

    def __init__(
        self,
        *,
        slots: int = 4,
        cells: int = 1024,
        context: int = 1000,
        chunk: int = 64,
        keep: int = 1000,
        pool: bool = False,
        always_shared: bool = False,
    ) -> None:
        policy = LayoutPolicy(slots, cells, min(context, cells), fixed=pool, always_shared=always_shared)
        self.cache = KVCache(policy, policy.initial(), keep)
        self.scheduler = Scheduler(self.cache, parallel=slots, max_batch=128, prefill_chunk=chunk)
        self.held: dict[int, list[int]] = {}  #: what is really in each slot
        self.offloaded: dict[int, list[int]] = {}  #: the states in host memory, by key
        self.reused = 0  #: steps that reused the plan before
        self._plan = Plan()

    def plan(self) -> Plan:
        """The last plan where it is to hold again, which is proven each time by planning all the same."""
        scheduler = self.scheduler
        if not scheduler.can_reuse_plan():
            self._plan = scheduler.plan(BUSY)
            return self._plan
        self.reused += 1
        repeats = scheduler._reusable_steps
        planned = scheduler.plan(BUSY)
        scheduler._reusable_steps = repeats
        assert (planned.cache_ops, planned.scheduled) == ([], self._plan.scheduled)
        return planned

    def step(self) -> Plan:
        plan = self.plan()
        for op in plan.cache_ops:
            self._apply(op)
        for sequence in plan.admitted:
            if sequence.slot != NO_SLOT:
                assert self.held[sequence.slot] == sequence.tokens[: sequence.computed]
        slots = [(not sequence.decoding, sequence.slot) for sequence, _ in plan.scheduled]
        assert slots == sorted(set(slots)), "one chunk a slot, in rising order, prompts behind replies"
        assert self.cache.fits([(sequence.slot, count) for sequence, count in plan.scheduled])
        decoding = [sequence.slot for sequence, _ in plan.scheduled if sequence.pending == 1]
        if decoding and not self.cache.layout.shared:
            assert decoding == list(range(decoding[0], decoding[-1] + 1)), "one pass over the weights for all of them"
        for sequence, count in plan.scheduled:
            assert 0 < count <= sequence.pending
            assert self.held[sequence.slot] == sequence.tokens[: sequence.computed]
            end = sequence.computed + count
            computed = sequence.tokens[sequence.computed : end]
            self.held[sequence.slot] += computed
            self.cache.append(sequence.slot, computed)
            sequence.computed = end
            if not sequence.pending:
                sequence.tokens.append(7)
                sequence.generated += 1
        return plan

    def _apply(self, op: CacheOp) -> None:
        """What the model's cache would do."""
        held, offloaded = self.held, self.offloaded
        if isinstance(op, Evict):
            if op.offload.key is not None:
                offloaded[op.offload.key] = held[op.slot]
            held[op.slot] = []
            for key in (*op.offload.superseded, *(key for key, _ in op.offload.evicted)):
                del offloaded[key]
        elif isinstance(op, Swap):
            held[op.one], held[op.other] = held.get(op.other, []), held.get(op.one, [])
        elif isinstance(op, Relayout):
            self.held = {new: held.get(old, []) for old, new in op.slot_map}
        else:
            found = held.get(op.slot, [])
            if op.source_slot is not None:
                found = held[op.source_slot]
            elif op.offload_key is not None:
                found = offloaded[op.offload_key]
            held[op.slot] = found[: op.prefix_len]

    def run(self, sequence: Sequence) -> Sequence:
        """The sequence alone until it has said something; then it ends."""
        self.scheduler.add(sequence)
        while not sequence.generated:
            self.step()
        self.scheduler.remove(sequence)
        return sequence


def test_prompts_are_read_in_chunks_and_then_decoded_a_token_a_step() -> None:
    machine = _Machine()
    machine.scheduler.add(sequence := _sequence(1, _unlike(1, 150)))
    counts = [machine.step().scheduled[0][1] for _ in range(5)]
    assert counts == [64, 64, 22, 1, 1]
    assert sequence.generated == 3


def test_a_long_prompt_beside_a_running_stream_takes_small_chunks_and_the_stream_goes_on() -> None:
    machine = _Machine()
    machine.scheduler.add(stream := _sequence(1, _unlike(1, 10)))
    machine.step()
    machine.scheduler.add(reader := _sequence(2, _unlike(2, 100)))
    for _ in range(5):
        chunks = {sequence.id: count for sequence, count in machine.step().scheduled}
        assert chunks == {1: 1, 2: BUSY}
    assert stream.generated == 6
    assert reader.generated == 0


def test_waiting_sequences_start_in_order_when_a_slot_is_free() -> None:
    machine = _Machine(slots=2)
    sequences = [_sequence(number, _unlike(number, 4)) for number in range(1, 5)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    machine.step()
    assert [sequence.slot != NO_SLOT for sequence in sequences] == [True, True, False, False]
    machine.scheduler.remove(sequences[0])
    machine.step()
    assert [sequence.slot != NO_SLOT for sequence in sequences[1:]] == [True, True, False]


def test_a_prompt_that_is_just_being_read_is_waited_for_and_shared() -> None:
    machine = _Machine()
    prompt = _unlike(1, 150)
    machine.scheduler.add(_sequence(1, prompt))
    machine.scheduler.add(second := _sequence(2, prompt))
    for _ in range(2):
        assert [sequence.id for sequence, _ in machine.step().scheduled] == [1]
    # The last 22 tokens aren't worth waiting for.
    assert [sequence.id for sequence, _ in machine.step().scheduled] == [1, 2]
    assert second.cached_tokens == 128


@pytest.mark.parametrize("pool", [False, True], ids=["streams", "pool"])
def test_who_comes_with_a_prompt_that_is_known_takes_part_in_the_step_that_admits_it(pool: bool) -> None:
    machine = _Machine(pool=pool)
    prompt = _unlike(1, 32)
    machine.scheduler.add(_sequence(1, prompt))
    machine.step()
    newcomers = [_sequence(2, prompt), _sequence(3, prompt)]
    for sequence in newcomers:
        machine.scheduler.add(sequence)
    assert sorted((sequence.id, count) for sequence, count in machine.step().scheduled) == [(1, 1), (2, 1), (3, 1)]
    assert [sequence.generated for sequence in newcomers] == [1, 1]


def test_max_tokens_reserves_nothing() -> None:
    machine = _Machine(cells=256)
    sequences = [_sequence(number, _unlike(number, 10), max_tokens=900) for number in range(1, 5)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    machine.step()
    assert len(machine.scheduler.running) == 4


def test_streams_grow_with_the_longest_sequence_and_only_then() -> None:
    machine = _Machine(cells=4096)
    assert machine.cache.layout == Layout(4, 512)
    machine.scheduler.add(_sequence(1, _unlike(1, 300)))
    machine.step()
    assert machine.cache.layout == Layout(4, 512)
    machine.scheduler.add(_sequence(2, _unlike(2, 700)))
    machine.step()
    assert machine.cache.layout == Layout(4, 1024)


def test_one_long_context_may_use_all_there_is_and_leaves_room_to_the_short_ones() -> None:
    machine = _Machine(cells=1024, context=1024)
    machine.scheduler.add(_sequence(1, _unlike(1, 900)))
    machine.step()
    assert machine.cache.layout == Layout(1, 1024)
    for number in (2, 3):
        machine.scheduler.add(_sequence(number, _unlike(number, 20)))
    machine.step()
    assert machine.cache.layout.shared
    assert len(machine.scheduler.running) == 3


def test_the_pool_is_left_when_the_load_has_become_smaller() -> None:
    machine = _Machine(cells=2048, context=2048)
    machine.scheduler.add(long := _sequence(1, _unlike(1, 1900)))
    machine.step()
    for number in (2, 3):
        machine.scheduler.add(_sequence(number, _unlike(number, 20)))
    machine.step()
    machine.scheduler.remove(long)
    machine.step()
    assert not machine.cache.layout.shared
    assert len(machine.scheduler.running) == 2


def test_sequences_that_decode_move_together_when_one_between_them_leaves() -> None:
    machine = _Machine(slots=8, cells=8192)
    sequences = [_sequence(number, _unlike(number, 5)) for number in range(1, 9)]
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
    machine = _Machine(cells=8192)
    machine.scheduler.add(_sequence(1, _unlike(1, 10)))
    machine.step()
    machine.scheduler.add(long := _sequence(2, _unlike(2, 900)))
    machine.scheduler.add(short := _sequence(3, _unlike(3, 40)))
    steps = 0
    while not short.generated:
        machine.step()
        steps += 1
    assert steps <= 2 * -(-40 // BUSY)
    assert long.computed > 0, "nor does the long one stop"


def test_a_prompt_that_can_be_brought_to_its_end_is_read_at_once() -> None:
    machine = _Machine(cells=8192)
    machine.scheduler.add(_sequence(1, _unlike(1, 10)))
    machine.step()
    for number, length in ((2, 900), (3, 40), (4, 30), (5, 30)):
        machine.scheduler.add(_sequence(number, _unlike(number, length)))
    chunks = {sequence.id: count for sequence, count in machine.scheduler.plan(BUSY, last_chunk_budget=80).scheduled}
    assert chunks == {1: 1, 2: BUSY, 3: 40} or chunks == {1: 1, 3: 40, 4: 30}


def test_the_smaller_priority_is_admitted_first_and_takes_a_running_one_s_place() -> None:
    machine = _Machine(slots=2)
    for number in (1, 2, 3):
        machine.scheduler.add(_sequence(number, _unlike(number, 5)))
    machine.step()
    urgent = _sequence(4, _unlike(4, 5), priority=-1)
    machine.scheduler.add(urgent)
    machine.step()
    assert [sequence.id for sequence in machine.scheduler.running] == [1, 4]
    assert [sequence.id for sequence in machine.scheduler.waiting] == [2, 3]
    assert machine.scheduler.counters.preemptions == 1


def test_a_finished_sequence_s_cells_go_before_a_running_one_is_paused() -> None:
    machine = _Machine(cells=256, pool=True)
    machine.run(_sequence(1, _unlike(1, 150)))
    machine.scheduler.add(_sequence(2, _unlike(2, 180)))
    plan = machine.step()
    assert any(isinstance(move, Evict) for move in plan.cache_ops)
    assert machine.scheduler.counters.preemptions == 0


def test_when_cells_run_out_the_youngest_is_paused_and_comes_back() -> None:
    machine = _Machine(cells=256, slots=2, chunk=32)
    older, younger = _sequence(1, _unlike(1, 120)), _sequence(2, _unlike(2, 120))
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


def test_in_the_pool_what_is_reused_is_moved_out_while_others_run_and_comes_back() -> None:
    machine = _Machine(pool=True)
    conversation = _unlike(1, 50)
    machine.run(_sequence(1, conversation))
    machine.scheduler.add(_sequence(2, _unlike(2, 10)))
    machine.step()
    assert machine.cache.used_cells == 10, "nobody attends past a conversation that waits for its next turn"
    machine.scheduler.add(second := _sequence(3, [*conversation, 5, 6]))
    machine.step()
    assert second.cached_tokens == 50


def test_a_kept_prefix_survives_the_moving_out_that_makes_room_for_it() -> None:
    machine = _Machine(slots=1, keep=60)
    conversation = _unlike(1, 50)
    machine.run(_sequence(1, conversation))
    machine.run(_sequence(2, _unlike(2, 40)))
    assert machine.run(_sequence(3, [*conversation, 5, 6])).cached_tokens == 50


def test_a_short_match_does_not_destroy_a_long_conversation() -> None:
    machine = _Machine(slots=1)
    conversation = _unlike(1, 100)
    machine.run(_sequence(1, conversation))
    machine.run(_sequence(2, [*conversation[:20], 7, 8, 9]))
    assert machine.run(_sequence(3, [*conversation, 5])).cached_tokens == 100


@pytest.mark.parametrize("pool", [False, True])
def test_the_plan_holds_again_while_everybody_goes_on_with_a_token_and_cells_are_left(pool: bool) -> None:
    machine = _Machine(slots=2, cells=512, pool=pool)
    for number in (1, 2):
        machine.scheduler.add(_sequence(number, _unlike(number, 4)))
    steps = 0
    while not machine.scheduler.counters.preemptions and machine.cache.layout.total == 512 and steps < 300:
        machine.step()
        steps += 1
    # Each has 256 cells, 4 of them for the prompt. The step behind the prompts is planned, as the one without room is.
    assert machine.reused == 256 - 4 - 1


def test_the_plan_does_not_hold_for_others_or_for_more_than_a_token() -> None:
    machine = _Machine()
    machine.scheduler.add(first := _sequence(1, _unlike(1, 4)))
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
    machine.scheduler.add(second := _sequence(2, _unlike(2, 4)))
    assert not machine.scheduler.can_reuse_plan()
    for _ in range(2):
        assert len(machine.step().scheduled) == 2
    assert machine.scheduler.can_reuse_plan()
    machine.scheduler.remove(second)
    assert not machine.scheduler.can_reuse_plan()


def test_the_plan_holds_while_others_wait_for_a_slot() -> None:
    machine = _Machine(slots=2)
    for number in (1, 2, 3):
        machine.scheduler.add(_sequence(number, _unlike(number, 4)))
    for _ in range(6):
        machine.step()
    assert machine.reused == 4
    assert len(machine.scheduler.waiting) == 1


def test_every_sequence_ends_whatever_the_load() -> None:
    """Prompts with and without common beginnings, urgent and not, through a cache that is always too small."""
    repeated = 0

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60), st.booleans(), st.integers(0, 1)), max_size=14),
        st.integers(1, 6),
        st.integers(1, 6),
        st.integers(0, 600),
        st.sampled_from(["streams", "pool", "growing pool"]),
    )
    def run(loads: list[tuple[int, int, bool, int]], grains: int, slots: int, keep: int, layout: str) -> None:
        nonlocal repeated
        repeated += _run_to_the_end(loads, grains, slots, keep, layout)

    run()
    assert repeated > 300, "most steps beside no prompt aren't planned"


def _run_to_the_end(loads: list[tuple[int, int, bool, int]], grains: int, slots: int, keep: int, layout: str) -> int:
    """How many steps weren't planned anew."""
    cells = 256 * grains
    machine = _Machine(
        slots=slots,
        cells=cells,
        context=cells,
        chunk=24,
        keep=keep,
        pool=layout == "pool",
        always_shared=layout == "growing pool",
    )
    pending: dict[int, tuple[Sequence, int]] = {}
    for identity, (length, wanted, shared, priority) in enumerate(loads, 1):
        prompt = _unlike(1 if shared else identity + 1, min(length, cells - 64))
        pending[identity] = sequence, _ = _sequence(identity, prompt, priority=priority), wanted
        machine.scheduler.add(sequence)
        if identity % 3 == 0:
            _step_and_end(machine, pending)
    for _ in range(20_000):
        if not machine.scheduler.has_work:
            break
        _step_and_end(machine, pending)
    assert not pending
    return machine.reused


def _step_and_end(machine: _Machine, pending: dict[int, tuple[Sequence, int]]) -> None:
    plan = machine.step()
    assert plan.scheduled, "a step with work to do makes progress"
    for sequence, _ in plan.scheduled:
        if sequence.generated >= pending[sequence.id][1]:
            machine.scheduler.remove(sequence)
            del pending[sequence.id]
