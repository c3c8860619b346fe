"""A chat model, an embedding model and a reranker behind one port: each answers on its routes, and no other does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ollama
import openai
import pytest

import minilm
from openai_wire import Reply, ask, chat, chat_stream
from servers import ServerProcess, serving
from tailrace.settings import STARTER_MODEL

QUERY = "Which animal sat there?"
DOCUMENTS = ["Stock prices fell.", "The cat sat on the mat.", "dogs"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("models")
    paths = [
        minilm.write_minilm(folder / "minilm.gguf"),
        minilm.write_minilm(folder / "reranker.gguf", ranks=True),
    ]
    with serving(STARTER_MODEL, *map(str, paths), "--ctx", "512", "--parallel", "2", "--threads", "1") as started:
        yield started


def post(server: ServerProcess, path: str, **fields: object) -> Reply:
    return ask(server.port, "POST", path, fields)


def test_models_that_were_never_loaded_say_what_they_are(server: ServerProcess) -> None:
    models = ask(server.port, "GET", "/v1/models").json()["models"]
    assert [model["capabilities"] for model in models] == [["completion"], ["embedding"], ["rerank"]]


def test_a_reranker_is_found_without_its_name(server: ServerProcess) -> None:
    """Clients of TEI send none. The first model that is served writes text."""
    body = post(server, "/v1/rerank", query=QUERY, documents=DOCUMENTS).json()
    assert body["model"] == "reranker"
    scores = [minilm.score(QUERY, document) for document in DOCUMENTS]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    assert [row["index"] for row in body["results"]] == best
    tei = post(server, "/rerank", query=QUERY, texts=DOCUMENTS).json()
    assert [row["index"] for row in tei] == best


def test_each_model_answers_on_its_dialects(server: ServerProcess) -> None:
    address = f"http://127.0.0.1:{server.port}"
    text = DOCUMENTS[1]
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
        reply = client.chat.completions.create(
            model=STARTER_MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        vector = client.embeddings.create(model="minilm", input=text).data[0].embedding
    assert (reply.model, reply.usage is not None) == (STARTER_MODEL, True)
    assert float(np.array(vector) @ minilm.vector(text)) > 0.9999
    with ollama.Client(host=address) as theirs:
        assert theirs.chat(STARTER_MODEL, [{"role": "user", "content": "Hi"}], options={"num_predict": 4}).done
        for name in ("minilm", "minilm:latest"):
            assert float(np.array(theirs.embed(name, text).embeddings[0]) @ minilm.vector(text)) > 0.9999
    native = post(server, "/embedding", model="minilm", content=text).json()[0]["embedding"][0]
    assert float(np.array(native) @ minilm.vector(text)) > 0.9999


@pytest.mark.parametrize(
    ("path", "model", "body", "why"),
    [
        ("/v1/chat/completions", "minilm", chat("Hi"), "makes embeddings and no text"),
        ("/v1/chat/completions", "reranker", chat("Hi"), "ranks documents and writes no text"),
        ("/api/generate", "minilm", {"prompt": "Hi"}, "makes embeddings and no text"),
        ("/v1/embeddings", "reranker", {"input": "Hi"}, "ranks documents and makes no embeddings"),
        ("/v1/rerank", "minilm", {"query": "a", "documents": ["b"]}, "Rerankers that are served: 'reranker'."),
        ("/v2/rerank", STARTER_MODEL, {"query": "a", "documents": ["b"]}, "Rerankers that are served: 'reranker'."),
    ],
)
def test_another_kind_of_request_is_refused(
    server: ServerProcess, path: str, model: str, body: dict[str, object], why: str
) -> None:
    reply = post(server, path, model=model, **body)
    assert (reply.status, why in reply.body.decode()) == (400, True), reply.body


def test_they_answer_at_the_same_time(server: ServerProcess) -> None:
    texts = [f"text number {number} of many" for number in range(64)]
    with ThreadPoolExecutor(3) as pool:
        stream = pool.submit(
            post, server, "/v1/chat/completions", model=STARTER_MODEL, stream=True, max_tokens=16, **chat("Count.")
        )
        vectors = pool.submit(post, server, "/v1/embeddings", model="minilm", input=texts)
        ranks = pool.submit(post, server, "/v1/rerank", model="reranker", query=QUERY, documents=texts)
        assert chat_stream(stream.result()).chunks[0]["model"] == STARTER_MODEL
        rows = vectors.result().json()["data"]
        assert len(ranks.result().json()["results"]) == len(texts)
    for place in (0, 63):
        assert float(np.array(rows[place]["embedding"]) @ minilm.vector(texts[place])) > 0.9999
