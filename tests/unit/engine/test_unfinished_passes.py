"""A worker's prompt passes take their time, and not that of sending them."""

from __future__ import annotations

from simulated_scheduler import sequence_of, unlike
from tailrace.engine.sequence import Sequence
from tailrace.engine.step import StepBatch
from tailrace.engine.unfinished_passes import PromptTime, UnfinishedPasses


def _sequence(identity: int, length: int, *, decoding: bool = False) -> Sequence:
    sequence = sequence_of(identity, unlike(identity, length))
    sequence.slot = identity
    if decoding:
        sequence.computed = length - 1
        sequence.generated = 1
    return sequence


def _part(sequence: Sequence, count: int) -> StepBatch:
    """A pass of the sequence's next tokens."""
    batch = StepBatch([(sequence, count)])
    sequence.computed += count
    return batch


def test_a_pass_without_results_takes_the_time_until_there_are_some() -> None:
    passes, prompt = UnfinishedPasses(), _sequence(1, 1000)
    assert passes.finish(_part(prompt, 400), 0.01) is None
    assert passes.finish(_part(prompt, 400), 0.01) is None
    assert passes.finish(_part(prompt, 200), 1.98) == (1000, 2.0)
    assert passes.finish(_part(_sequence(2, 50), 50), 0.1) == (50, 0.1)


def test_a_reply_that_waits_for_a_prompt_says_nothing_of_either() -> None:
    passes, prompt, reply = UnfinishedPasses(), _sequence(1, 1000), _sequence(2, 50, decoding=True)
    assert passes.finish(_part(prompt, 400), 0.01) is None
    assert passes.finish(StepBatch([(reply, 1), (prompt, 100)]), 0.9) is None
    assert passes.finish(StepBatch([(reply, 1)]), 0.02) == (0, 0.02)


def test_a_prompt_that_nobody_waits_for_has_no_time() -> None:
    passes = UnfinishedPasses()
    assert passes.finish(_part(_sequence(1, 1000), 400), 0.01) is None
    assert passes.finish(_part(_sequence(2, 50), 50), 0.1) is None
    assert passes.finish(_part(_sequence(3, 50), 50), 0.1) == (50, 0.1)


def test_a_pass_is_waited_for_where_more_would_take_too_long() -> None:
    passes, prompt = UnfinishedPasses(), _sequence(1, 1800)

    def compute(count: int, seconds: float) -> tuple[bool, PromptTime | None]:
        """Whether the pass of so many tokens is waited for, and what it taught."""
        batch = _part(prompt, count)
        outputs = passes.outputs_of(batch)
        assert outputs in (batch.outputs, [count - 1])
        return outputs != batch.outputs, passes.finish(batch, seconds)

    # Nothing is known of the first one.
    assert compute(100, 0.125) == (True, (100, 0.125))
    assert [compute(100, 1 / 64) for _ in range(2)] == [(False, None)] * 2
    assert compute(100, 0.25) == (True, (300, 0.28125))
    assert compute(300, 0.5) == (True, (300, 0.5)), "one pass that takes long"
    assert compute(100, 0.25) == (False, None)
    assert compute(1000, 1.0) == (False, (1100, 1.25)), "it has results: the prompt ends"


def test_a_reply_is_never_given_another_result() -> None:
    passes, prompt, reply = UnfinishedPasses(), _sequence(1, 1000), _sequence(2, 50, decoding=True)
    batch = StepBatch([(reply, 1), (prompt, 100)])
    assert passes.outputs_of(batch) == batch.outputs == [0]
