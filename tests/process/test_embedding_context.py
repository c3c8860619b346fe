"""Embeddings against llama.cpp's own pooling, for a generating model and for one that only embeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from model_files import with_pairs, write_bert
from openai_wire import ask, chat
from servers import serving
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.embeddings import make_jobs, texts_to_tokenise
from tailrace.models.model_reference import locate_model
from tailrace.protocol import Embed, Embedded, Pooling
from tailrace.settings import STARTER_MODEL, Settings

TEXTS = ["the cat sat on the mat", "the dog runs fast, the cat runs", "a mat"]
OURS: dict[Pooling, int] = {
    "mean": llama.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama.LLAMA_POOLING_TYPE_CLS,
    "last": llama.LLAMA_POOLING_TYPE_LAST,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "bert.gguf")


@pytest.fixture(scope="module", params=["starter", "bert"])
def backend(request: pytest.FixtureRequest, bert: Path) -> Iterator[LlamaBackend]:
    path = bert if request.param == "bert" else locate_model(STARTER_MODEL).path
    opened = create_llama(path, Settings(ctx=0 if request.param == "bert" else 512, parallel=2, threads=1))
    yield opened
    opened.close()


def ours(backend: LlamaBackend, chunk: int, pooling: Pooling) -> dict[int, list[float]]:
    queue = EmbeddingQueue(backend.embedding_context, chunk)
    inquiry = Embed(id=1, inputs=[*TEXTS], pooling=pooling)
    prompts = texts_to_tokenise(backend, inquiry)
    assert isinstance(prompts, list)
    texts = make_jobs(backend, inquiry, map(backend.tokenize_prompt, prompts))
    assert isinstance(texts, list)
    queue.add(texts)
    found: dict[int, list[float]] = {}
    while queue:
        for answer in queue.step(beside=False):
            assert isinstance(answer, Embedded)
            found[answer.index] = np.frombuffer(answer.vector, "<f4").tolist()
    return found


def upstream(backend: LlamaBackend, text: str, pooling: Pooling) -> list[float]:
    """One text in a context of its own, pooled by llama.cpp."""
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.embeddings, params.pooling_type = True, OURS[pooling]
    context = llama.llama_init_from_model(backend._model, params)
    tokens = backend.tokenize(text, parse_special=False, add_special=True)
    array = (llama.llama_token * len(tokens))(*tokens)
    assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) == 0
    width = llama.llama_model_n_embd_out(backend._model)
    vector = np.ctypeslib.as_array(llama.llama_get_embeddings_seq(context, 0), (width,)).astype(float)
    llama.llama_free(context)
    unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return unit


@pytest.mark.parametrize("pooling", OURS)
def test_vectors_are_those_of_llama_cpps_pooling(backend: LlamaBackend, pooling: Pooling) -> None:
    for chunk in (3, 512):
        found = ours(backend, chunk, pooling)
        for index, text in enumerate(TEXTS):
            # Passes of another size round otherwise; other texts' and other poolings' vectors are much further apart.
            assert np.dot(found[index], upstream(backend, text, pooling)) > 0.995, (text, chunk)


def test_a_model_that_only_embeds_is_served(bert: Path) -> None:
    with serving(str(bert)) as server:
        body = ask(server.port, "POST", "/v1/embeddings", {"input": TEXTS}).json()
        assert [len(entry["embedding"]) for entry in body["data"]] == [32] * 3
        for path, request in (
            ("/v1/chat/completions", chat("the cat")),
            ("/v1/completions", {"prompt": "the cat"}),
            ("/v1/completions", {"prompt": "the cat", "echo": True, "logprobs": 1}),
        ):
            reply = ask(server.port, "POST", path, request)
            assert reply.status == 400
            assert "embeddings" in reply.error()["message"]


def test_infill_uses_the_tokens_of_the_models_file(tmp_path: Path) -> None:
    """The starter model has no such tokens: in a copy of it three special ones are."""
    marks = {"prefix": 3, "suffix": 4, "middle": 5}
    pairs = {f"tokenizer.ggml.fim_{name[:3]}_token_id": token for name, token in marks.items()}
    path = with_pairs(locate_model(STARTER_MODEL).path, tmp_path / "infill.gguf", pairs)
    with serving(str(path), "--ctx", "512", "--parallel", "1", "--threads", "1") as server:
        prompt = {"max_tokens": 4, "temperature": 0, "logprobs": 0}
        filled = ask(server.port, "POST", "/v1/completions", {"prompt": "a = ", "suffix": "\nb", **prompt}).json()
        pieces = [ask(server.port, "POST", "/tokenize", {"content": text}).json()["tokens"] for text in ("a = ", "\nb")]
        tokens = [3, *pieces[0], 4, *pieces[1], 5]
        plain = ask(server.port, "POST", "/v1/completions", {"prompt": tokens, **prompt}).json()
        assert filled["choices"][0]["text"] == plain["choices"][0]["text"]
        assert filled["usage"]["prompt_tokens"] == len(tokens)
