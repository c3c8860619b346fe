"""The speculator: which sequences get drafts, and how long they are."""

from __future__ import annotations

import pytest

from simulated_passes import PassSeconds, SimulatedSpeculator, compute_bound, memory_bound, slightly_compute_bound
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.drafter import Drafter
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.protocol import Submit


class AlwaysRight:
    """Drafts for the sequences with an even id, and is always right."""

    learns_without_draft = True
    prior = (1.0,) * LEVELS

    def begin(self, sequence: Sequence) -> None: ...

    def expect_results(self, wanted: bool) -> None: ...

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


class Costly:
    """A drafter that learns from drafts alone. Each of its tokens takes ``seconds``.

    It is right while ``right``, and in every so many drafts with ``right_every``.
    """

    learns_without_draft = False
    prior = (0.7,) * LEVELS

    def __init__(self, seconds: float = 0.3, *, right: bool = False, right_every: int = 0) -> None:
        self.seconds, self.right, self.right_every = seconds, right, right_every
        self.spent = 0.0
        self.drafted = 0
        self.drafts = 0
        self.lengths: list[list[int]] = []  #: of the drafts of each step that has any
        self.wanted: list[bool] = []  #: for each step whether its results were

    def begin(self, sequence: Sequence) -> None: ...

    def expect_results(self, wanted: bool) -> None:
        self.wanted.append(wanted)

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None: ...

    def prepare(self, sequence: Sequence) -> int | None:
        return 0

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        self.spent += self.draft_seconds(len(requests), max(length for _, length in requests))
        self.lengths.append([length for _, length in requests])
        for sequence, length in requests:
            self.drafts += 1
            is_right = self.right or (self.right_every and self.drafts % self.right_every == 0)
            sequence.draft = [1 if is_right else 2] * length
            self.drafted += length

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        return self.seconds * length

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None:
        acceptance.observe_draft(0, sequence.draft, sampled)

    def end(self, sequence: Sequence) -> None: ...


class Replies:
    """Replies of ones, in ``streams`` at a time, whose steps take ``pass_seconds`` and what drafting takes."""

    def __init__(self, streams: int, pass_seconds: PassSeconds, drafter: Costly, *others: Drafter) -> None:
        self.streams, self.pass_seconds, self.drafter = streams, pass_seconds, drafter
        self.speculator = SimulatedSpeculator(drafter, pass_seconds, others=others)
        self.begun = 0
        self.sources: list[bool] = []  #: for each draft whether it is ``drafter``'s

    def speed(self, tokens: int, *, has_waiting: bool = False) -> float:
        """The speed of another reply of each stream, over the speed without drafts."""
        running = []
        for _ in range(self.streams):
            self.begun += 1
            sequence = Sequence(Submit(id=self.begun, prompt=[1]), [5, 6, 7, 8], 100_000, frozenset())
            sequence.computed = 3
            self.speculator.begin(sequence)
            running.append(sequence)
        spent = -self.drafter.spent
        brought = 0
        while brought < tokens * self.streams:
            drafted = self.drafter.drafted
            self.speculator.propose(running, lambda _: 300, 300, has_waiting=has_waiting, equal_split=False)
            counts = [1 + len(sequence.draft) for sequence in running]
            if max(counts) > 1:
                self.sources.append(self.drafter.drafted > drafted)
            spent += self.pass_seconds(sum(counts))
            self.speculator.observe(counts, self.streams, 0.0)
            for sequence in running:
                sampled = [1] * (1 + (len(sequence.draft) if sequence.draft[:1] == [1] else 0))
                sequence.tokens += sampled
                sequence.computed += len(sampled)
                self.speculator.learn(sequence, sampled)
                brought += len(sampled)
        for sequence in running:
            self.speculator.end(sequence)
        return brought * self.pass_seconds(self.streams) / self.streams / (spent + self.drafter.spent)


@pytest.mark.parametrize("streams", [1, 4, 8])
@pytest.mark.parametrize("pass_seconds", [memory_bound, slightly_compute_bound, compute_bound])
def test_a_drafter_that_is_never_right_costs_next_to_nothing(streams: int, pass_seconds: PassSeconds) -> None:
    replies = Replies(streams, pass_seconds, Costly())
    assert replies.speed(512) > 0.97, "its drafts have to be seen to be wrong"
    assert min(replies.speed(512) for _ in range(6)) > 0.997


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("pass_seconds", [slightly_compute_bound, compute_bound])
def test_a_drafter_that_is_right_too_rarely_costs_next_to_nothing(streams: int, pass_seconds: PassSeconds) -> None:
    replies = Replies(streams, pass_seconds, Costly(right_every=5))
    replies.speed(512)
    assert min(replies.speed(512) for _ in range(6)) > 0.995


def test_a_drafter_that_is_right_but_too_costly_costs_next_to_nothing() -> None:
    replies = Replies(1, compute_bound, Costly(right=True))
    assert min(replies.speed(512) for _ in range(6)) > 0.99
    assert replies.speed(4096) > 0.998


def test_drafts_have_one_token_until_one_was_right() -> None:
    wrong, right = Costly(0.1), Costly(0.1, right=True)
    for drafter in (wrong, right):
        Replies(1, memory_bound, drafter).speed(512)
    assert {length for lengths in wrong.lengths for length in lengths} == {1}
    assert right.lengths[0] == [1]
    assert max(right.lengths) > [2]


def test_a_probe_is_of_one_sequence() -> None:
    drafter = Costly(0.1)
    Replies(8, compute_bound, drafter).speed(4096)
    _, *probes = drafter.lengths  # The first drafts seem to pay, because nothing is known of their cost.
    assert 2 < len(probes) < 6
    assert probes == [[1]] * len(probes)


def test_results_are_wanted_for_drafts_and_shortly_before_a_probe() -> None:
    useless = Costly(0.1)
    Replies(1, memory_bound, useless).speed(16_000)
    assert useless.wanted[0]
    assert sum(useless.wanted) < 0.05 * len(useless.wanted)
    assert not any(useless.wanted[11_000:14_000]), "a probe comes every 4,096 steps"
    busy = Costly(0.1)
    replies = Replies(1, compute_bound, busy)
    replies.speed(16_000)
    replies.speed(8192, has_waiting=True)
    assert not any(busy.wanted[-8000:]), "no probe is made while sequences wait"
    useful = Costly(0.1, right=True)
    Replies(1, memory_bound, useful).speed(512)
    assert all(useful.wanted)


def test_a_drafter_that_is_too_costly_isnt_considered_in_every_step() -> None:
    drafter = Costly(right=True)
    Replies(1, compute_bound, drafter).speed(300)
    assert sum(drafter.wanted[:200]) < 80, "it still seems right, and its results are for nothing"


def test_a_drafter_that_is_too_costly_for_many_replies_pays_for_fewer() -> None:
    drafter = Costly(0.1, right=True)
    replies = Replies(8, lambda tokens: 1.0 + max(0.0, 0.9 * (tokens - 8)), drafter)
    replies.speed(64)
    assert not any(drafter.wanted[-20:])
    replies.streams = 1
    assert replies.speed(512) > 1.5


@pytest.mark.parametrize("streams", [1, 4, 8])
def test_a_drafter_that_is_right_pays(streams: int) -> None:
    replies = Replies(streams, slightly_compute_bound, Costly(0.1, right=True))
    replies.speed(512)
    assert replies.speed(512) > 1.4


def test_a_drafter_that_becomes_right_is_found_by_its_probes() -> None:
    drafter = Costly(0.1)
    replies = Replies(1, slightly_compute_bound, drafter)
    replies.speed(2000)
    drafter.right = True
    replies.speed(4096)
    assert replies.speed(512) > 1.5


def test_each_draft_comes_from_the_source_that_promises_more() -> None:
    cheap = Replies(1, slightly_compute_bound, Costly(0.1, right=True), LookupDrafter())
    cheap.speed(512)
    assert not any(cheap.sources[-20:]), "a reply that repeats itself is copied without cost"
    alone = Replies(1, slightly_compute_bound, Costly(0.1, right=True), AlwaysRight())
    alone.speed(512)
    assert set(alone.sources) == {True}, "sequences with odd ids have one source"


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
