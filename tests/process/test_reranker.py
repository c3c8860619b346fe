"""Rerankers: the scores of one on MiniLM's body are those of the same classifier in NumPy, and those of one that is a
causal language model are llama.cpp's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest

import minilm
from architectures import RERANK_TEMPLATE, tiny_reranker
from openai_wire import ask, chat
from servers import ServerProcess, serving
from tailrace.engine import ranking
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.embeddings import EmbeddingJob
from tailrace.protocol import Rank, Ranked
from tailrace.settings import Settings

QUERY = "What is machine learning?"
DOCUMENTS = [
    "Learning is the process of acquiring new understanding, knowledge and skills. " * 5,
    "Paris is the capital of France.",
    "Machine learning is the study of algorithms that learn from data.",
    "",
    "[SEP] is plain text in a document",
    "Größe ändern, 한국어 텍스트 🎉",
    "cats",
    "A text that almost fills the context beside the query, as chunks of pages do. " * 28,
]


def expected(document: str) -> float:
    """The score in NumPy. The original's tokenizer reads the names of special tokens as such in every text."""
    return minilm.score(QUERY, document.replace("[SEP]", "[ SEP ]"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = minilm.write_minilm(tmp_path_factory.mktemp("models") / "reranker.gguf", ranks=True)
    with serving(str(path), "--threads", "1", "--reranking") as started:
        yield started


def jobs_of(backend: LlamaBackend, documents: list[str]) -> list[EmbeddingJob]:
    request = Rank(id=1, query=QUERY, documents=documents)
    texts = ranking.texts_to_tokenise(backend, request)
    assert isinstance(texts, list)
    jobs = ranking.make_jobs(backend, request, map(backend.tokenize_prompt, texts))
    assert isinstance(jobs, list)
    return jobs


def ranked(backend: LlamaBackend, documents: list[str], max_pass_tokens: int = 512) -> tuple[dict[int, float], int]:
    """The scores of the documents, and the number of passes."""
    queue = EmbeddingQueue(backend.embedding_context, max_pass_tokens)
    queue.add(jobs_of(backend, documents))
    scores: dict[int, float] = {}
    passes = 0
    while queue:
        passes += 1
        for answer in queue.step(beside=False):
            assert isinstance(answer, Ranked)
            scores[answer.index] = answer.score
    return scores, passes


@pytest.mark.parametrize(("weight_type", "close"), [("F32", 0.01), ("F16", 0.03)])
def test_scores_are_the_classifiers(tmp_path: Path, weight_type: minilm.WeightType, close: float) -> None:
    path = minilm.write_minilm(tmp_path / "reranker.gguf", weight_type=weight_type, ranks=True)
    backend = create_llama(path, Settings(ctx=0, parallel=2, threads=1))
    assert (backend.info.rank_score, backend.info.embedding_width, backend.info.generates) == ("logit", 0, False)
    scores, passes = ranked(backend, DOCUMENTS)
    backend.close()
    assert passes < len(DOCUMENTS), "several pairs are computed in a pass"
    for index, document in enumerate(DOCUMENTS):
        assert scores[index] == pytest.approx(expected(document), abs=close), document


def upstream(backend: LlamaBackend, document: str) -> float:
    """What llama.cpp's own pooling gives a document, in a context of its own."""
    text = RERANK_TEMPLATE.replace("{query}", QUERY).replace("{document}", document)
    tokens = backend.tokenize(text, parse_special=True, add_special=False)
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.embeddings, params.pooling_type = True, llama.LLAMA_POOLING_TYPE_RANK
    context = llama.llama_init_from_model(backend._model, params)
    array = (llama.llama_token * len(tokens))(*tokens)
    assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) == 0
    score = float(llama.llama_get_embeddings_seq(context, 0)[0])
    llama.llama_free(context)
    return score


@pytest.mark.parametrize("max_pass_tokens", [7, 512])
def test_a_causal_reranker_has_a_template_and_gives_probabilities(tmp_path: Path, max_pass_tokens: int) -> None:
    backend = create_llama(tiny_reranker(tmp_path), Settings(ctx=512, parallel=2, threads=1))
    assert (backend.info.rank_score, backend.info.generates) == ("probability", True)
    documents = ["", "short", "A longer document that takes several passes. " * 6, "한국어", "other words"]
    scores, _ = ranked(backend, documents, max_pass_tokens)
    theirs = {index: upstream(backend, document) for index, document in enumerate(documents)}
    (job,) = jobs_of(backend, ["a</s>b"])
    backend.close()
    for index, score in theirs.items():
        assert scores[index] == pytest.approx(score, abs=0.003), documents[index]
    assert max(theirs.values()) - min(theirs.values()) > 0.02, "documents differ by more than the rounding"
    end = 2
    assert job.tokens.count(end) == 1, "the name of a special token is text in a document"


def test_a_causal_reranker_answers_chats_too(tmp_path: Path) -> None:
    with serving(str(tiny_reranker(tmp_path)), "--ctx", "512", "--threads", "1", "--parallel", "1") as server:
        body = {"query": QUERY, "documents": ["one", "two"]}
        rows = ask(server.port, "POST", "/v1/rerank", body).json()["results"]
        assert sorted(row["index"] for row in rows) == [0, 1]
        assert all(0 < row["relevance_score"] < 1 for row in rows)
        for field, value in (("raw_scores", True), ("use_activation", False)):
            error = ask(server.port, "POST", "/v1/rerank", {**body, field: value}).error()
            assert (error["param"], "probabilities" in error["message"]) == (field, True)
        assert ask(server.port, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
        assert ask(server.port, "GET", "/v1/models").json()["models"][0]["capabilities"] == ["completion", "rerank"]


def test_a_request_is_answered_in_every_form(server: ServerProcess) -> None:
    logits = {index: expected(document) for index, document in enumerate(DOCUMENTS)}
    best = sorted(logits, key=lambda index: -logits[index])
    body = {"query": QUERY, "documents": DOCUMENTS}
    for path in ("/v1/rerank", "/v2/rerank", "/reranking"):
        rows = ask(server.port, "POST", path, {"model": "reranker", **body}).json()["results"]
        assert [row["index"] for row in rows] == best
        for row in rows:
            assert row["relevance_score"] == pytest.approx(1 / (1 + math.exp(-logits[row["index"]])), abs=0.01)
    raw = ask(server.port, "POST", "/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    assert [row["index"] for row in raw] == best
    assert raw[0]["score"] == pytest.approx(logits[best[0]], abs=0.03)


def test_a_long_document_is_cut(server: ServerProcess) -> None:
    long = "word " * 600
    refused = ask(server.port, "POST", "/v1/rerank", {"query": QUERY, "documents": ["short", long]})
    assert "document 1 with the query has 608 tokens" in refused.error()["message"]
    rows = ask(
        server.port, "POST", "/v1/rerank", {"query": QUERY, "documents": [long], "truncate": True, "raw_scores": True}
    ).json()
    head = [minilm.CLS, *minilm.tokens_of(QUERY)[1:]]
    pair = [*head, *minilm.tokens_of(long)[1:-1]][:511]
    assert rows["results"][0]["relevance_score"] == pytest.approx(minilm.score_of([*pair, minilm.SEP]), abs=0.03)
    assert rows["usage"]["total_tokens"] == 512


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/v1/embeddings", {"input": "Hi"}, b"ranks documents and makes no embeddings"),
        ("/api/embed", {"model": "reranker", "input": "Hi"}, b"ranks documents and makes no embeddings"),
        ("/embedding", {"content": "Hi"}, b"ranks documents and makes no embeddings"),
        ("/v1/chat/completions", chat("Hi"), b"ranks documents and writes no text"),
        ("/v1/completions", {"prompt": "Hi", "echo": True, "logprobs": 1}, b"ranks documents and writes no text"),
        ("/api/generate", {"model": "reranker", "prompt": "Hi"}, b"ranks documents and writes no text"),
    ],
)
def test_other_requests_are_refused(server: ServerProcess, path: str, body: dict[str, object], why: bytes) -> None:
    reply = ask(server.port, "POST", path, body)
    assert (reply.status, why in reply.body) == (400, True), reply.body


def test_the_model_is_shown_as_a_reranker(server: ServerProcess) -> None:
    (entry,) = ask(server.port, "GET", "/v1/models").json()["models"]
    assert entry["capabilities"] == ["rerank"]
    assert ask(server.port, "POST", "/api/show", {"model": "reranker"}).json()["capabilities"] == ["rerank"]
