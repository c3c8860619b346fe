"""all-MiniLM-L6-v2, converted to GGUF: tokens and vectors are those of the original, in every dialect."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ollama
import openai
import pytest

import minilm
from minilm import Array
from openai_wire import Reply, ask, chat
from servers import ServerProcess, serving
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.backends.llama.llama_vocab import load_vocab
from tailrace.engine.embedding_queue import EmbeddingQueue
from tailrace.engine.embeddings import make_jobs, texts_to_tokenise
from tailrace.protocol import Embed, Embedded
from tailrace.settings import Settings

TEXTS = [
    "x",
    "The cat sat on the mat.",
    "A kitten is on the rug.",
    "  Größe ÄNDERN,\tnaïve résumé\u00a0— 'quoted' (brackets) & 100%!  ",
    "你好，世界。 機械学習 한국어 텍스트 العربية ไทย עברית Ελληνικά Русский Tiếng Việt",
    "emoji 🎉👩‍👩‍👧 and \u200bzero width, ﬁ ligature, e\u0301 combining, ½ ² €",
    "def f(x):\n    return x**2  # 'code'\n",
    "हिन्दी में पाठ বাংলা লেখা தமிழ் உரை తెలుగు ქართული አማርኛ ខ្មែរ",
    "a" * 100 + " " + "b" * 101 + " https://example.org/" + "path" * 30,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "[CLS] and [SEP] are plain text in an input, as [MASK] and [unused1] are",
    "word " * 40,
    "A long text reads on and on, and its mean has many parts. " * 13,
]
#: The original reads the names of special tokens as these tokens. Here they are text.
PLAIN = [text for text in TEXTS if "[CLS]" not in text]


@pytest.fixture(scope="module", params=["F32", "F16", "Q8_0"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    path = minilm.write_minilm(tmp_path_factory.mktemp("models") / "minilm.gguf", weight_type=request.param)
    opened = create_llama(path, Settings(ctx=0, parallel=2, threads=1))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = minilm.write_minilm(tmp_path_factory.mktemp("models") / "minilm.gguf")
    with serving(str(path), "--threads", "1", "--embeddings") as started:
        yield started


def embedded(backend: LlamaBackend, texts: list[str]) -> list[Array]:
    """The texts' vectors, of several texts in a pass."""
    queue = EmbeddingQueue(backend.embedding_context, 512)
    request = Embed(id=1, inputs=[*texts])
    inputs = texts_to_tokenise(backend, request)
    assert isinstance(inputs, list)
    jobs = make_jobs(backend, request, map(backend.tokenize_prompt, inputs))
    assert isinstance(jobs, list)
    queue.add(jobs)
    found: dict[int, Array] = {}
    while queue:
        for answer in queue.step(beside=False):
            assert isinstance(answer, Embedded)
            found[answer.index] = np.frombuffer(answer.vector, "<f4")
    return [found[index] for index in range(len(texts))]


def post(server: ServerProcess, path: str, **fields: object) -> Reply:
    return ask(server.port, "POST", path, fields)


def test_texts_are_tokenised_as_by_the_original(backend: LlamaBackend) -> None:
    for text in PLAIN:
        assert backend.tokenize(text, parse_special=False, add_special=True) == minilm.tokens_of(text), text


def _is_settled(character: str) -> bool:
    category = unicodedata.category(character)
    return category == unicodedata.ucd_3_2_0.category(character) and category not in ("Cn", "Cs")


def test_every_character_is_tokenised_as_by_the_original(tmp_path: Path) -> None:
    """Those of Unicode 3.2 that are what they were: the original tokenizer has tables of another version."""
    vocab = load_vocab(minilm.write_minilm(tmp_path / "minilm.gguf"))
    # Of the large blocks a part: ideographs, syllables, and what is beyond the first 65,536.
    codes = [code for code in (*range(0x3000), *range(0x3000, 0x30000, 23)) if _is_settled(chr(code))]
    assert len(codes) > 8000
    for code in codes:
        text = f"a{chr(code)}b"
        assert vocab.tokenize(text, parse_special=False, add_special=True) == minilm.tokens_of(text), hex(code)


def test_vectors_are_the_originals(backend: LlamaBackend) -> None:
    near = 0.998 if "Q8_0" in backend.info.description else 0.9999
    for text, vector in zip(PLAIN, embedded(backend, PLAIN), strict=True):
        assert float(vector @ minilm.vector(text)) > near, text
    cat, kitten = minilm.vector(TEXTS[1]), minilm.vector(TEXTS[2])
    assert float(cat @ kitten) < 0.9, "the comparison tells texts apart"


def test_names_of_special_tokens_are_text(backend: LlamaBackend) -> None:
    (vector,) = embedded(backend, ["one [SEP] two"])
    pieces = minilm.tokenizer().encode("one [ SEP ] two", add_special_tokens=False).ids
    mean = minilm.hidden_states([minilm.CLS, *pieces, minilm.SEP]).mean(axis=0)
    assert float(vector @ (mean / np.linalg.norm(mean))) > 0.998


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_each_pooling_is_the_originals(server: ServerProcess, pooling: str) -> None:
    rows = minilm.hidden_states(minilm.tokens_of(TEXTS[1]))
    row = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}[pooling]
    found = post(server, "/v1/embeddings", input=TEXTS[1], pooling=pooling).json()["data"][0]["embedding"]
    assert float(np.array(found) @ (row / np.linalg.norm(row))) > 0.9999


def test_every_dialect_gives_the_originals_vectors(server: ServerProcess) -> None:
    """With the clients' own libraries where there are some."""
    text = TEXTS[3]
    address = f"http://127.0.0.1:{server.port}"
    coded = post(server, "/v1/embeddings", input=text, encoding_format="base64").json()["data"][0]["embedding"]
    found: dict[str, object] = {
        "base64": np.frombuffer(base64.b64decode(coded), "<f4"),
        "floats": post(server, "/embeddings", input=text, encoding_format="float").json()["data"][0]["embedding"],
        "tokens": post(server, "/v1/embeddings", input=minilm.tokens_of(text)).json()["data"][0]["embedding"],
        "lists": post(server, "/v1/embeddings", input=[minilm.tokens_of(text)]).json()["data"][0]["embedding"],
        "llama": post(server, "/embedding", content=text).json()[0]["embedding"][0],
    }
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any") as client:
        found["openai"] = client.embeddings.create(model="minilm", input=text).data[0].embedding
    with ollama.Client(address) as client:
        found["embed"] = client.embed("minilm", text).embeddings[0]
        found["older"] = client.embeddings("minilm", text).embedding
    for name, vector in found.items():
        assert float(np.array(vector) @ minilm.vector(text)) > 0.9999, name


def test_fewer_dimensions_are_the_first_ones_at_length_1(server: ServerProcess) -> None:
    head = minilm.vector(TEXTS[1])[:64]
    for path, field in (("/v1/embeddings", "input"), ("/api/embed", "input")):
        body = post(server, path, model="minilm", dimensions=64, **{field: TEXTS[1]}).json()
        vector = body["embeddings"][0] if "embeddings" in body else body["data"][0]["embedding"]
        assert float(np.array(vector) @ (head / np.linalg.norm(head))) > 0.9999
        refused = post(server, path, model="minilm", dimensions=385, **{field: TEXTS[1]})
        assert (refused.status, b"384" in refused.body) == (400, True)


def test_a_long_text_is_refused_or_cut_as_the_dialect_says(server: ServerProcess) -> None:
    long = "word " * 600
    error = post(server, "/v1/embeddings", input=["short", long]).error()
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
    assert "input 1 has 602 tokens" in error["message"]
    (vector,) = post(server, "/api/embed", model="minilm", input=long).json()["embeddings"]
    mean = minilm.hidden_states(minilm.tokens_of(long)[:512]).mean(axis=0)
    assert float(np.array(vector) @ (mean / np.linalg.norm(mean))) > 0.9999


def test_a_text_is_as_long_as_its_tokens(server: ServerProcess) -> None:
    """Words of any length and spaces are few tokens."""
    for text, count in (("data " + "QUJD" * 5000, 4), ("spaces" + " " * 20_000 + "between", 4)):
        assert post(server, "/v1/embeddings", input=text).json()["usage"]["prompt_tokens"] == count


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("Hi")),
        ("/v1/chat/completions", chat("Hi", stream=True)),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"model": "minilm", "input": "Hi"}),
        ("/v1/messages", {"model": "minilm", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/chat", {"model": "minilm", "messages": [{"role": "user", "content": "Hi"}]}),
        ("/api/generate", {"model": "minilm", "prompt": "Hi"}),
        ("/completion", {"prompt": "Hi"}),
    ],
)
def test_a_generation_is_refused(server: ServerProcess, path: str, body: dict[str, object]) -> None:
    reply = ask(server.port, "POST", path, body)
    assert reply.status == 400
    assert b"this model makes embeddings and no text" in reply.body
