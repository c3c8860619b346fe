"""Requests to rerank become pairs of a query and a document, which are cut or refused where they don't fit."""

from __future__ import annotations

import pytest

from tailrace.engine.backends.base import RankFormat
from tailrace.engine.backends.fake import END, START, FakeBackend, FakeEmbeddingContext
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.embeddings import EmbeddingJob
from tailrace.engine.ranking import make_jobs, texts_to_tokenise
from tailrace.protocol import Embedded, Rank, Ranked, Refused


def fake(rank_format: RankFormat | None = None, ctx: int = 16) -> FakeBackend:
    backend = FakeBackend(ctx=ctx, parallel=1, kv_tokens=0, batch=8)
    if rank_format is not None:
        context = FakeEmbeddingContext()
        context.rank_format = rank_format
        backend.embedding_context = context
    return backend


def jobs_of(backend: FakeBackend, request: Rank) -> list[EmbeddingJob] | Refused:
    texts = texts_to_tokenise(backend, request)
    return texts if isinstance(texts, Refused) else make_jobs(backend, request, map(backend.tokenize_prompt, texts))


def pairs(backend: FakeBackend, request: Rank) -> list[list[int]]:
    jobs = jobs_of(backend, request)
    assert isinstance(jobs, list)
    assert [job.index for job in jobs] == list(range(len(request.documents)))
    return [job.tokens for job in jobs]


def refusal(backend: FakeBackend, request: Rank) -> Refused:
    refused = jobs_of(backend, request)
    assert isinstance(refused, Refused)
    return refused


def test_a_pair_has_the_models_own_tokens_around_its_texts() -> None:
    given = Rank(id=1, query="ab", documents=["c", ""])
    assert pairs(fake(), given) == [[*b"ab", START, *b"c", END], [*b"ab", START, END]]
    around = RankFormat(before=(START,), between=(END, START), after=())
    assert pairs(fake(around), given)[0] == [START, *b"ab", END, START, *b"c"]


def test_names_of_special_tokens_are_text() -> None:
    given = Rank(id=1, query="<end>", documents=["<start>"])
    assert pairs(fake(), given) == [[*b"<end>", START, *b"<start>", END]]
    template = RankFormat("<start>{query}|{document}.")
    assert pairs(fake(template, 32), given) == [[START, *b"<end>|<start>."]]


def test_a_template_has_both_texts_in_their_places() -> None:
    given = Rank(id=1, query="{document}", documents=["{query}", "d"])
    template = RankFormat("Q{query}D{document}:{query}.")
    first, second = pairs(fake(template, 64), given)
    assert first == [*b"Q{document}D{query}:{document}."]
    assert second == [*b"Q{document}Dd:{document}."]


@pytest.mark.parametrize("template", [None, "{query}:{document}."])
def test_a_long_document_is_refused_or_cut(template: str | None) -> None:
    backend = fake(None if template is None else RankFormat(template))
    long = Rank(id=1, query="ab", documents=["c", "0123456789abcdef"])
    refused = refusal(backend, long)
    assert (refused.code, refused.prompt_tokens, refused.context) == ("context_length_exceeded", 20, 16)
    assert "document 1 with the query has 20 tokens" in refused.message
    head, tail = ([*b"ab", START], [END]) if template is None else ([*b"ab:"], [*b"."])

    def cut(*, keep_end: bool = False, document_tokens: int | None = None) -> list[list[int]]:
        given = Rank(
            id=1,
            query="ab",
            documents=long.documents,
            truncate=True,
            keep_end=keep_end,
            document_tokens=document_tokens,
        )
        return pairs(backend, given)

    assert cut() == [[*head, *b"c", *tail], [*head, *b"0123456789ab", *tail]]
    assert cut(keep_end=True)[1] == [*head, *b"456789abcdef", *tail]
    assert cut(document_tokens=3)[1] == [*head, *b"012", *tail]
    assert cut(document_tokens=3, keep_end=True)[1] == [*head, *b"def", *tail]
    assert cut(document_tokens=99)[1] == [*head, *b"0123456789ab", *tail]


@pytest.mark.parametrize("template", [None, "{query}:{document}."])
@pytest.mark.parametrize("length", [14, 17, 200])
def test_a_query_that_leaves_no_space_is_refused(template: str | None, length: int) -> None:
    backend = fake(None if template is None else RankFormat(template))
    refused = refusal(backend, Rank(id=1, query="q" * length, documents=["c"], truncate=True))
    assert (refused.code, refused.field, refused.context) == ("context_length_exceeded", "query", 16)


def test_a_text_that_surely_does_not_fit_is_not_tokenised() -> None:
    texts = texts_to_tokenise(fake(), Rank(id=1, query="ab", documents=["d" * 17]))
    assert isinstance(texts, Refused)
    assert "document 0 has at least 17 tokens" in texts.message


def test_a_model_without_a_classifier_refuses() -> None:
    backend = fake()
    context = FakeEmbeddingContext()
    context.rank_format = None
    backend.embedding_context = context
    assert refusal(backend, Rank(id=1, query="a", documents=["b"])).code == "unsupported"


@pytest.mark.parametrize("max_pass_tokens", [1, 3, 64])
def test_scores_do_not_depend_on_the_passes(max_pass_tokens: int) -> None:
    """Beside an embedding, which is of another kind and never in the same pass."""
    backend = fake(ctx=64)
    jobs = jobs_of(backend, Rank(id=7, query="abc", documents=["abc", "abx", "xyz", "", "a" * 30, "bc"]))
    assert isinstance(jobs, list)
    queue = EmbeddingQueue(FakeEmbeddingContext(), max_pass_tokens)
    queue.add(jobs)
    queue.add([EmbeddingJob(8, 0, [3, 4], "mean", caller="other")])
    answers = []
    while queue:
        answers += list(queue.step(beside=False))
    scores = {answer.index: (answer.score, answer.tokens) for answer in answers if isinstance(answer, Ranked)}
    assert scores == {0: (3, 8), 1: (1, 8), 2: (-3, 8), 3: (0, 5), 4: (1, 35), 5: (2, 7)}
    assert len([answer for answer in answers if isinstance(answer, Embedded)]) == 1
