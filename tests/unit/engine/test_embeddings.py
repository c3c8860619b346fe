"""Embedding passes: which tokens each one computes, and how its rows become answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tailrace.engine.backends.base import HiddenStates
from tailrace.engine.backends.fake import FakeBackend, FakeEmbeddingContext
from tailrace.engine.embeddings import EmbeddingJob, EmbeddingQueue, make_jobs, texts_to_tokenise
from tailrace.errors import ModelError
from tailrace.protocol import Embed, Embedded, EmbeddingAnswer, Failed, Pooling, Refused, Score, Scored


class RecordingContext(FakeEmbeddingContext):
    """Records its passes."""

    def __init__(self, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.passes: list[list[int]] = []
        self.reserved: list[int] = []

    def reserve(self, cells: int) -> None:
        super().reserve(cells)
        self.reserved.append(cells)

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> HiddenStates:
        self.passes.append(tokens)
        return super().embed(tokens, positions, slots)


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


def test_cells_are_reserved_for_the_longest_text_and_no_text_overtakes_it() -> None:
    context = RecordingContext()
    queue = EmbeddingQueue(context, 64)
    queue.add(
        [EmbeddingJob(1, 0, [1] * 100, "mean"), EmbeddingJob(2, 0, [2] * 900, "mean"), EmbeddingJob(3, 0, [3], "mean")]
    )
    assert [answer.id for answer in answers_of(queue)] == [1, 2, 3]
    assert context.reserved == [512, 900]


def test_without_causal_attention_a_text_is_computed_in_one_pass() -> None:
    context = RecordingContext(causal=False)
    queue = EmbeddingQueue(context, 4)
    queue.add(
        [EmbeddingJob(1, 0, [1] * 9, "mean"), EmbeddingJob(1, 1, [2] * 3, "mean"), EmbeddingJob(1, 2, [3], "mean")]
    )
    answers_of(queue)
    assert context.passes == [[1] * 9, [2, 2, 2, 3]]


def test_scores_and_embeddings_have_separate_passes() -> None:
    queue = EmbeddingQueue(FakeEmbeddingContext(), 64)
    queue.add(
        [
            EmbeddingJob(1, 0, [1, 2, 3], "mean"),
            EmbeddingJob(2, 0, [1, 2, 3], None, top=2),
            EmbeddingJob(3, 0, [1], "mean"),
        ]
    )
    one, two, three = answers_of(queue)
    assert (one.id, three.id) == (1, 3)
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
    queue.add(
        [
            EmbeddingJob(1, 0, [13], "mean"),
            EmbeddingJob(1, 1, [2], "mean"),
            EmbeddingJob(2, 0, [3], "mean"),
            EmbeddingJob(3, 0, [1, 2], None),
        ]
    )
    answers = answers_of(queue)
    assert [(type(answer), answer.id) for answer in answers] == [(Failed, 1), (Embedded, 2), (Failed, 3)]


def test_a_text_without_memory_fails_alone() -> None:
    class Small(FakeEmbeddingContext):
        def reserve(self, cells: int) -> None:
            if cells > 512:
                raise ModelError("too large")
            super().reserve(cells)

    queue = EmbeddingQueue(Small(), 64)
    queue.add([EmbeddingJob(1, 0, [1] * 600, "mean"), EmbeddingJob(2, 0, [1], "mean")])
    first, second = answers_of(queue)
    assert first == Failed(1, "too large")
    assert second.id == 2


def test_beside_decoding_sequences_a_pass_is_followed_by_a_pause() -> None:
    queue = EmbeddingQueue(FakeEmbeddingContext(), 1)
    queue._next_pass = math.inf
    queue.add([EmbeddingJob(1, 0, [1], "mean")])
    assert list(queue.step(beside=True)) == []
    assert len(list(queue.step(beside=False))) == 1


def tokenised(backend: FakeBackend, request: Embed | Score) -> list[EmbeddingJob] | Refused:
    texts = texts_to_tokenise(backend, request)
    return texts if isinstance(texts, Refused) else make_jobs(backend, request, map(backend.tokenize_prompt, texts))


def test_requests_become_jobs() -> None:
    backend = FakeBackend(ctx=8, parallel=1, kv_tokens=0, batch=8)
    plain = tokenised(backend, Embed(id=1, inputs=["ab", [5, 6, 7]], pooling="last"))
    assert isinstance(plain, list)
    assert [(text.tokens, text.pooling) for text in plain] == [([97, 98], "last"), ([5, 6, 7], "last")]
    prompt = tokenised(backend, Score(id=1, prompt="ab", top=3))
    assert isinstance(prompt, list)
    assert [(text.tokens, text.pooling, text.top) for text in prompt] == [([97, 98, 257], None, 3)]


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([""], "invalid_prompt"),
        (["a", []], "invalid_prompt"),
        ([[261]], "invalid_prompt"),
        (["123456789"], "context_length_exceeded"),
        ([[1] * 9], "context_length_exceeded"),
    ],
)
def test_a_text_that_can_not_be_computed_is_refused(inputs: list[str | list[int]], code: str) -> None:
    backend = FakeBackend(ctx=8, parallel=1, kv_tokens=0, batch=8)
    refused = tokenised(backend, Embed(id=1, inputs=inputs))
    assert isinstance(refused, Refused)
    assert refused.code == code


def test_a_model_without_embeddings_refuses() -> None:
    backend = FakeBackend(ctx=8, parallel=1, kv_tokens=0, batch=8)
    backend.embedding_context = None
    refused = tokenised(backend, Embed(id=1, inputs=["a"]))
    assert isinstance(refused, Refused)
    assert refused.code == "unsupported"
