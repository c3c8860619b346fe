"""Requests for embeddings and scores become jobs."""

from __future__ import annotations

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.embeddings import EmbeddingJob, make_jobs, texts_to_tokenise
from tailrace.protocol import Embed, Refused, Score


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
