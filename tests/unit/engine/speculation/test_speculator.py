"""The speculator: which sequences get drafts, and how long they are."""

from __future__ import annotations

from simulated_passes import PassSeconds, SimulatedSpeculator, compute_bound, memory_bound, slightly_compute_bound
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.protocol import Submit


class AlwaysRight:
    """Drafts for the sequences with an even id, and is always right."""

    learns_without_draft = True
    prior = (1.0,) * LEVELS

    def begin(self, sequence: Sequence) -> None: ...

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        pass

    def prepare(self, sequence: Sequence) -> int | None:
        return 100 if sequence.id % 2 == 0 else None

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        for sequence, length in requests:
            sequence.draft = [1] * length

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        return 0.0

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None: ...

    def end(self, sequence: Sequence) -> None: ...


def draft_lengths(
    pass_seconds: PassSeconds,
    n_running: int = 1,
    *,
    limit: int = 400,
    free_cells: int = 300,
    total_free: int = 300,
    has_waiting: bool = False,
    equal_split: bool = False,
    n_draft_max: int = 16,
) -> list[int]:
    """The lengths of the drafts of ``n_running`` sequences, whose ids count from 0."""
    speculator = SimulatedSpeculator(AlwaysRight(), pass_seconds, n_draft_max=n_draft_max)
    sequences = []
    for identity in range(n_running):
        sequence = Sequence(Submit(id=identity, prompt=[1]), [1] * 100, limit, frozenset())
        sequence.computed = 99
        speculator.begin(sequence)
        sequences.append(sequence)
    for tokens in (1, 2, 3, 4, 6, 8, 17, 33, 64):
        for _ in range(10):
            speculator.observe([tokens], 1, 0.0)
    speculator.propose(sequences, lambda _: free_cells, total_free, has_waiting=has_waiting, equal_split=equal_split)
    return [len(sequence.draft) for sequence in sequences]


def test_a_draft_is_as_long_as_it_pays_and_fits() -> None:
    assert draft_lengths(memory_bound) == [16]
    assert draft_lengths(slightly_compute_bound) == [16]
    assert draft_lengths(compute_bound) == [0]
    assert draft_lengths(memory_bound, limit=105) == [4], "the last token needs no draft"
    assert draft_lengths(memory_bound, limit=101) == [0]
    assert draft_lengths(memory_bound, free_cells=3) == [3]
    assert draft_lengths(memory_bound, total_free=5) == [4], "lengths are tried in steps"


def test_a_draft_risks_a_few_steps_at_most() -> None:
    def half_compute_bound(tokens: int) -> float:
        return 0.4 + 0.6 * tokens

    # 17 tokens would take 10.6 steps' time and bring 17, if all draft tokens are accepted.
    assert draft_lengths(half_compute_bound) == [8]


def test_a_sequence_without_a_draft_keeps_its_speed() -> None:
    assert draft_lengths(memory_bound, 3) == [16, 0, 16]
    assert draft_lengths(slightly_compute_bound, 3) == [0, 0, 0]
    assert draft_lengths(slightly_compute_bound, has_waiting=True) == [0], (
        "nor does a prompt in prefill or one that waits"
    )
    assert draft_lengths(memory_bound, has_waiting=True) == [16]


def test_with_equal_split_only_equal_sequences_draft() -> None:
    assert draft_lengths(memory_bound, 3, equal_split=True) == [0, 0, 0]
    assert draft_lengths(memory_bound, 1, equal_split=True) == [16]
