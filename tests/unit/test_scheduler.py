"""The scheduler's policy, without a model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.engine.cache import KVCache, MoveOut
from tailrace.engine.scheduler import Growth, Plan, Scheduler
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.messages import Sampling, Submit

BUSY = 16


def _sequence(identity: int, tokens: list[int], max_tokens: int | None = None) -> Sequence:
    submit = Submit(id=identity, prompt=tokens, max_tokens=max_tokens, sampling=Sampling(temperature=0.0))
    return Sequence(submit, list(tokens), 1000, frozenset())


def _unlike(identity: int, length: int) -> list[int]:
    """A prompt that shares no beginning with another identity's."""
    return [identity * 1000 + position for position in range(length)]


class _Machine:
    """A scheduler with its cache, whose steps are carried out as the loop does."""

    def __init__(
        self, *, slots: int = 4, cells: int = 1000, limit: int = 0, parallel: int = 4, chunk: int = 64, keep: int = 1000
    ) -> None:
        self.cache = KVCache(slots, cells, limit or cells, keep=keep)
        self.scheduler = Scheduler(self.cache, parallel=parallel, max_batch=128, chunk=chunk)

    def step(self) -> Plan:
        plan = self.scheduler.plan(BUSY)
        slots = [sequence.slot for sequence, _ in plan.chunks]
        assert slots == sorted(set(slots)), "one chunk a slot, in rising order"
        assert sum(count for _, count in plan.chunks) <= self.cache.free, "the cells that a step needs are free"
        for sequence, count in plan.chunks:
            assert 0 < count <= sequence.pending
            end = sequence.computed + count
            self.cache.append(sequence.slot, sequence.tokens[sequence.computed : end])
            sequence.computed = end
            if not sequence.pending:
                sequence.tokens.append(7)
                sequence.generated += 1
        return plan


def test_prompts_are_read_in_chunks_and_then_decoded_a_token_a_step() -> None:
    machine = _Machine()
    machine.scheduler.add(sequence := _sequence(1, _unlike(1, 150)))
    counts = [machine.step().chunks[0][1] for _ in range(5)]
    assert counts == [64, 64, 22, 1, 1]
    assert sequence.generated == 3


def test_a_long_prompt_beside_a_running_stream_takes_small_chunks_and_the_stream_goes_on() -> None:
    machine = _Machine()
    machine.scheduler.add(stream := _sequence(1, _unlike(1, 10)))
    machine.step()
    machine.scheduler.add(reader := _sequence(2, _unlike(2, 100)))
    for _ in range(5):
        chunks = {sequence.id: count for sequence, count in machine.step().chunks}
        assert chunks == {1: 1, 2: BUSY}
    assert stream.generated == 6
    assert reader.generated == 0


def test_waiting_sequences_start_in_order_when_a_slot_is_free() -> None:
    machine = _Machine(parallel=2)
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
        assert [sequence.id for sequence, _ in machine.step().chunks] == [1]
    # The last 22 tokens aren't worth waiting for.
    assert [sequence.id for sequence, _ in machine.step().chunks] == [1, 2]
    assert second.cached_tokens == 128


def test_max_tokens_reserves_nothing() -> None:
    machine = _Machine(cells=100, parallel=4)
    sequences = [_sequence(number, _unlike(number, 10), max_tokens=900) for number in range(1, 5)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    machine.step()
    assert len(machine.scheduler.running) == 4


def test_the_cache_grows_before_anything_is_dropped() -> None:
    machine = _Machine(cells=32, limit=128)
    machine.scheduler.add(_sequence(1, _unlike(1, 30)))
    machine.scheduler.add(_sequence(2, _unlike(2, 30)))
    plan = machine.step()
    assert Growth(64) in plan.moves
    assert len(plan.chunks) == 2


def test_a_finished_sequence_s_cells_go_before_a_running_one_is_paused() -> None:
    machine = _Machine(cells=64)
    machine.scheduler.add(old := _sequence(1, _unlike(1, 40)))
    machine.step()
    machine.scheduler.remove(old)
    machine.scheduler.add(_sequence(2, _unlike(2, 50)))
    plan = machine.step()
    assert any(isinstance(move, MoveOut) for move in plan.moves)
    assert machine.scheduler.counters.preemptions == 0


def test_when_cells_run_out_the_youngest_is_paused_and_comes_back() -> None:
    machine = _Machine(cells=64, parallel=2, chunk=32)
    older, younger = _sequence(1, _unlike(1, 28)), _sequence(2, _unlike(2, 28))
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


def test_what_is_reused_is_moved_out_while_others_run_and_comes_back() -> None:
    machine = _Machine()
    conversation = _unlike(1, 50)
    machine.scheduler.add(first := _sequence(1, conversation))
    machine.step()
    machine.scheduler.remove(first)
    machine.scheduler.add(_sequence(2, _unlike(2, 10)))
    machine.step()
    assert machine.cache.used == 10, "nobody attends past a conversation that waits for its next turn"
    machine.scheduler.add(second := _sequence(3, [*conversation, 5, 6]))
    machine.step()
    assert second.cached_tokens == 50


def test_a_kept_prefix_survives_the_moving_out_that_makes_room_for_it() -> None:
    machine = _Machine(slots=1, parallel=1, keep=60)
    conversation = _unlike(1, 50)
    for identity, prompt in ((1, conversation), (2, _unlike(2, 40)), (3, [*conversation, 5, 6])):
        machine.scheduler.add(sequence := _sequence(identity, prompt))
        while not sequence.generated:
            machine.step()
        machine.scheduler.remove(sequence)
    assert sequence.cached_tokens == 50


def test_a_short_match_does_not_destroy_a_long_conversation() -> None:
    machine = _Machine(slots=1, parallel=1)
    conversation = _unlike(1, 100)
    for identity, prompt in ((1, conversation), (2, [*conversation[:20], 7, 8, 9]), (3, [*conversation, 5])):
        machine.scheduler.add(sequence := _sequence(identity, prompt))
        while not sequence.generated:
            machine.step()
        machine.scheduler.remove(sequence)
    assert sequence.cached_tokens == 100


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.booleans()), min_size=1, max_size=12),
    st.integers(64, 200),
    st.integers(1, 5),
    st.integers(0, 150),
)
def test_every_sequence_ends_whatever_the_load(
    loads: list[tuple[int, int, bool]], cells: int, parallel: int, keep: int
) -> None:
    """Prompts with and without common beginnings through a cache that is always too small."""
    machine = _Machine(slots=parallel, cells=cells, parallel=parallel, chunk=24, keep=keep)
    pending: dict[int, tuple[Sequence, int]] = {}
    for identity, (length, wanted, shared) in enumerate(loads, 1):
        sequence = _sequence(identity, _unlike(1 if shared else identity + 1, min(length, cells - 32)))
        pending[identity] = sequence, wanted
        machine.scheduler.add(sequence)
    for _ in range(20_000):
        if machine.scheduler.idle:
            break
        plan = machine.step()
        assert plan.chunks, "a step with work to do makes progress"
        for sequence, _ in plan.chunks:
            if sequence.generated >= pending[sequence.id][1]:
                machine.scheduler.remove(sequence)
                del pending[sequence.id]
    assert not pending
