"""Embedding passes: which tokens each one computes, and how its rows become answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tailrace.engine.backends.base import HiddenStates
from tailrace.engine.backends.fake import FakeEmbeddingContext
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.embeddings import EmbeddingJob
from tailrace.errors import ModelError
from tailrace.protocol import Embedded, EmbeddingAnswer, Failed, Pooling, Scored


class Clock:
    """A clock for the queue, which the context advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tailrace.engine.embedding_queue.time", clock)
    return clock


class RecordingContext(FakeEmbeddingContext):
    """Records its passes. With a ``clock`` each token takes a millisecond."""

    def __init__(self, *, causal: bool = True, clock: Clock | None = None) -> None:
        super().__init__()
        self._clock = clock or Clock()
        self.causal = causal
        self.passes: list[list[int]] = []
        self.reserved: list[int] = []

    def reserve(self, cells: int) -> None:
        super().reserve(cells)
        self.reserved.append(cells)

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        self.passes.append(tokens)
        self._clock.now += 1e-3 * len(tokens)
        return super().embed(tokens, positions, slots)

    def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        self.passes.append(tokens)
        self._clock.now += 1e-3 * len(tokens)
        return super().score(tokens, positions, slots)


def add(queue: EmbeddingQueue, jobs: list[EmbeddingJob]) -> None:
    """Queue the jobs of one or more requests."""
    for identity in dict.fromkeys(job.id for job in jobs):
        queue.add([job for job in jobs if job.id == identity])


def answers_of(queue: EmbeddingQueue, *, beside: bool = False) -> list[EmbeddingAnswer | Failed]:
    answers: list[EmbeddingAnswer | Failed] = []
    while queue:
        answers += queue.step(beside=beside)
    return answers


def vector(answer: object) -> HiddenStates:
    assert isinstance(answer, Embedded)
    return np.frombuffer(answer.vector, "<f4")


def unit(tokens: list[int]) -> HiddenStates:
    counts = np.bincount(np.array(tokens) % 16, minlength=16).astype(float)
    found: HiddenStates = (counts / np.linalg.norm(counts)).astype(np.float32)
    return found


@pytest.mark.parametrize("max_pass_tokens", [1, 3, 64])
def test_the_mean_does_not_depend_on_the_passes(max_pass_tokens: int) -> None:
    context = RecordingContext()
    queue = EmbeddingQueue(context, max_pass_tokens)
    texts = [EmbeddingJob(7, index, list(range(index, index + 5 + index)), "mean") for index in range(6)]
    queue.add(texts)
    answers = answers_of(queue)
    assert all(len(tokens) <= max_pass_tokens for tokens in context.passes)
    assert sorted(answer.index for answer in answers if isinstance(answer, Embedded)) == list(range(6))
    for answer in answers:
        assert isinstance(answer, Embedded)
        assert (answer.id, answer.tokens) == (7, 5 + answer.index)
        np.testing.assert_allclose(vector(answer), unit(texts[answer.index].tokens), atol=1e-6)


@pytest.mark.parametrize(("pooling", "counts"), [("cls", 3), ("last", 9)])
def test_cls_and_last_pooling_take_one_row(pooling: Pooling, counts: int) -> None:
    queue = EmbeddingQueue(FakeEmbeddingContext(), 2)
    queue.add([EmbeddingJob(1, 0, [3, 4, 5, 9], pooling)])
    (answer,) = answers_of(queue)
    assert vector(answer).tolist() == np.eye(16)[counts].tolist()


def test_cells_are_reserved_for_the_longest_text_and_some_to_spare() -> None:
    context = RecordingContext()
    queue = EmbeddingQueue(context, 64)
    add(
        queue,
        [EmbeddingJob(1, 0, [1] * 100, "mean"), EmbeddingJob(2, 0, [2] * 900, "mean"), EmbeddingJob(3, 0, [3], "mean")],
    )
    assert sorted(answer.id for answer in answers_of(queue)) == [1, 2, 3]
    assert context.reserved == [512 + 256, 900 + 256]


def test_without_causal_attention_a_text_is_computed_in_one_pass() -> None:
    context = RecordingContext(causal=False)
    queue = EmbeddingQueue(context, 4)
    add(
        queue,
        [EmbeddingJob(1, 0, [1] * 9, "mean"), EmbeddingJob(1, 1, [2] * 3, "mean"), EmbeddingJob(1, 2, [3], "mean")],
    )
    answers_of(queue)
    assert context.passes == [[1] * 9, [2, 2, 2, 3]]


def test_scores_and_embeddings_have_separate_passes() -> None:
    queue = EmbeddingQueue(FakeEmbeddingContext(), 64)
    add(
        queue,
        [
            EmbeddingJob(1, 0, [1, 2, 3], "mean"),
            EmbeddingJob(2, 0, [1, 2, 3], None, top=2),
            EmbeddingJob(3, 0, [1], "mean"),
        ],
    )
    answers = {answer.id: answer for answer in answers_of(queue)}
    assert answers.keys() == {1, 2, 3}
    two = answers[2]
    assert isinstance(two, Scored)
    assert two.tokens == [1, 2, 3]
    assert [entry.logprob for entry in two.logprobs] == pytest.approx([-math.log(261)] * 2)
    assert [len(entry.top) for entry in two.logprobs] == [2, 2]


def test_a_request_can_be_cancelled_at_any_time() -> None:
    context = RecordingContext()
    queue = EmbeddingQueue(context, 2)
    queue.add([EmbeddingJob(1, index, [1] * 4, "mean") for index in range(9)])
    queue.add([EmbeddingJob(2, 0, [2] * 4, "mean")])
    assert list(queue.step(beside=False)) == []
    queue.cancel(1)
    assert [answer.id for answer in answers_of(queue)] == [2]
    queue.add([EmbeddingJob(3, 0, [1] * 4, "mean")])
    assert list(queue.step(beside=False)) == []
    queue.clear()
    assert not queue


def test_nan_fails_its_own_request_only() -> None:
    class Broken(FakeEmbeddingContext):
        def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
            rows = super().embed(tokens, positions, slots)
            rows[np.array(tokens) == 13] = np.nan
            return rows

        def score(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
            return np.full((len(tokens), 261), np.nan, np.float32)

    queue = EmbeddingQueue(Broken(), 64)
    add(
        queue,
        [
            EmbeddingJob(1, 0, [13], "mean"),
            EmbeddingJob(1, 1, [2], "mean"),
            EmbeddingJob(2, 0, [3], "mean"),
            EmbeddingJob(3, 0, [1, 2], None),
        ],
    )
    answers = answers_of(queue)
    assert {(type(answer), answer.id) for answer in answers} == {(Failed, 1), (Embedded, 2), (Failed, 3)}
    assert len(answers) == 3


def test_a_text_without_memory_fails_alone() -> None:
    class Small(FakeEmbeddingContext):
        def reserve(self, cells: int) -> None:
            if cells > 800:
                raise ModelError("too large")
            super().reserve(cells)

    queue = EmbeddingQueue(Small(), 64)
    add(queue, [EmbeddingJob(1, 0, [1] * 600, "mean"), EmbeddingJob(2, 0, [1], "mean")])
    first, second = answers_of(queue)
    assert first == Failed(1, "too large")
    assert second.id == 2


def _caller_jobs(identity: int, caller: str, lengths: list[int], *, score: bool = False) -> list[EmbeddingJob]:
    return [
        EmbeddingJob(identity, index, [identity] * length, None if score else "mean", caller=caller)
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("score", [False, True], ids=["embeddings", "scores"])
@pytest.mark.parametrize("caller", ["A", "B"], ids=["the same caller", "another caller"])
def test_one_text_does_not_wait_for_a_request_of_thousands(clock: Clock, caller: str, score: bool) -> None:
    queue = EmbeddingQueue(RecordingContext(clock=clock), 64)
    queue.add(_caller_jobs(1, "A", [12] * 2048, score=score))
    for _ in range(3):
        list(queue.step(beside=False))
    queue.add(_caller_jobs(2, caller, [3]))
    assert 2 in [answer.id for answer in queue.step(beside=False)]


def test_one_text_does_not_wait_for_a_long_one_in_progress(clock: Clock) -> None:
    queue = EmbeddingQueue(RecordingContext(clock=clock), 64)
    queue.add(_caller_jobs(1, "A", [8000, 8000, 8000], score=True))
    assert list(queue.step(beside=False)) == []
    queue.add(_caller_jobs(2, "B", [200]))
    passes = 0
    while 2 not in [answer.id for answer in queue.step(beside=False)]:
        passes += 1
    # Four passes of 64 tokens have the text; the other caller's are between them.
    assert passes <= 8


def test_a_long_text_of_another_caller_waits_for_one_text(clock: Clock) -> None:
    context = RecordingContext(clock=clock)
    queue = EmbeddingQueue(context, 64)
    queue.add(_caller_jobs(1, "A", [1000] * 20))
    for _ in range(5):
        list(queue.step(beside=False))
    queue.add(_caller_jobs(2, "B", [1200]))
    queue.add(_caller_jobs(3, "C", [5]))
    order = [(answer.id, answer.index) for answer in answers_of(queue) if isinstance(answer, Embedded)]
    assert order[:3] == [(3, 0), (1, 0), (2, 0)]
    assert len(order) == 22


def test_callers_get_equally_much_time(clock: Clock) -> None:
    context = RecordingContext(clock=clock)
    queue = EmbeddingQueue(context, 16)
    queue.add(_caller_jobs(1, "A", [40] * 50))
    queue.add(_caller_jobs(3, "A", [40] * 50))
    queue.add(_caller_jobs(2, "B", [40] * 50))
    done = dict.fromkeys((1, 2, 3), 0)
    for _ in range(160):
        for answer in queue.step(beside=False):
            done[answer.id] += 1
    assert done[2] == pytest.approx(done[1] + done[3], abs=2)
    assert done[1] == pytest.approx(done[3], abs=2)


def test_a_text_that_a_pass_completes_starts_behind_one_that_does_not_fit(clock: Clock) -> None:
    queue = EmbeddingQueue(RecordingContext(clock=clock), 64)
    queue.add(_caller_jobs(1, "A", [500]))
    list(queue.step(beside=False))
    queue.add(_caller_jobs(2, "B", [700]))
    list(queue.step(beside=False))
    queue.add(_caller_jobs(3, "C", [10] * 3))
    answers = [answer.id for answer in queue.step(beside=False)]
    assert answers == [3, 3, 3]


def test_a_slow_pass_does_not_make_the_next_ones_tiny(clock: Clock) -> None:
    context = RecordingContext(clock=clock)
    queue = EmbeddingQueue(context, 64)
    queue.add(_caller_jobs(1, "A", [400]))
    queue._token_seconds = 3.0
    while not context.passes:
        list(queue.step(beside=True))
    assert len(context.passes[-1]) == 8


def test_soon_after_a_step_passes_are_short(clock: Clock) -> None:
    context = RecordingContext(clock=clock)
    context.max_pass_tokens = 512
    queue = EmbeddingQueue(context, 512)
    queue.add(_caller_jobs(1, "A", [5000]))
    for beside in (True, True, False, False):
        list(queue.step(beside=beside))
    clock.now += 20
    list(queue.step(beside=False))
    assert [len(tokens) for tokens in context.passes] == [16, 50, 50, 250]


def test_beside_decoding_sequences_a_pass_is_followed_by_a_pause() -> None:
    queue = EmbeddingQueue(FakeEmbeddingContext(), 1)
    queue._next_pass = math.inf
    queue.add([EmbeddingJob(1, 0, [1], "mean")])
    assert list(queue.step(beside=True)) == []
    assert len(list(queue.step(beside=False))) == 1


def test_beside_decoding_sequences_a_pass_takes_little_longer_than_their_step(clock: Clock) -> None:
    context = RecordingContext(clock=clock)
    context.max_pass_tokens = 512
    queue = EmbeddingQueue(context, 512)
    queue.add(_caller_jobs(1, "A", [400]))
    for _ in range(4):
        clock.now += 1.0
        assert not list(queue.step(beside=True, step_seconds=0.02))
    assert [len(tokens) for tokens in context.passes][1:] == [30, 30], "a token takes a millisecond"


def test_beside_decoding_sequences_memory_and_the_first_pass_are_separate() -> None:
    context = RecordingContext()
    queue = EmbeddingQueue(context, 512)
    queue.add([EmbeddingJob(1, 0, list(range(9)), "mean")])
    assert not list(queue.step(beside=True))
    assert (len(context.reserved), context.passes) == (1, [])
    assert len(list(queue.step(beside=True))) == 1
    assert len(context.reserved) == 1
