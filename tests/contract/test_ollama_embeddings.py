"""Ollama's embeddings: both routes, what is cut and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ollama_wire import error
from openai_wire import Reply, ask
from servers import ServerProcess


def embed(server: ServerProcess, given: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/api/embed", {"model": "fake", "input": given, **fields})


def vectors(reply: Reply) -> list[list[float]]:
    assert reply.status == 200, reply.body
    found: list[list[float]] = reply.json()["embeddings"]
    return found


def test_complete_reply(scripted: ServerProcess) -> None:
    body = embed(scripted, ["a", "bb"]).json()
    assert set(body) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert (body["model"], body["prompt_eval_count"]) == ("fake", 3)
    assert body["embeddings"] == [np.eye(16)[ord(letter) % 16].tolist() for letter in "ab"]
    assert body["total_duration"] > body["load_duration"] > 0
    assert vectors(embed(scripted, "bb")) == [body["embeddings"][1]]


def test_the_same_numbers_as_in_openais_dialect(real: ServerProcess) -> None:
    text = "The quick brown fox"
    (vector,) = vectors(embed(real, text, model="smollm2-135m"))
    other = ask(real.port, "POST", "/v1/embeddings", {"input": text}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(vector, other, atol=1e-4)
    older = ask(real.port, "POST", "/api/embeddings", {"model": "smollm2-135m:latest", "prompt": text}).json()
    assert list(older) == ["embedding"]
    np.testing.assert_allclose(older["embedding"], vector, atol=1e-4)
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-4


def test_fewer_dimensions(scripted: ServerProcess) -> None:
    (short,) = vectors(embed(scripted, "abcdef", dimensions=4))
    assert len(short) == 4
    assert abs(float(np.linalg.norm(short)) - 1) < 1e-6
    reply = embed(scripted, "a", dimensions=17)
    assert (reply.status, "'dimensions'" in error(reply)) == (400, True)


def test_no_input_gives_no_vector(scripted: ServerProcess) -> None:
    nothing: tuple[object, ...] = ("", [], None)
    for given in nothing:
        assert vectors(embed(scripted, given)) == []
    assert ask(scripted.port, "POST", "/api/embeddings", {"model": "fake"}).json() == {"embedding": []}


def test_a_long_text_is_cut_unless_that_is_forbidden(slow: ServerProcess) -> None:
    """The scripted backend has a context of 8192 tokens, each a byte."""
    long = "a" * 8192 + "b" * 1000
    cut, short = vectors(embed(slow, [long, "b"]))
    assert cut == vectors(embed(slow, "a" * 8192))[0]
    assert short == vectors(embed(slow, "b"))[0]
    assert embed(slow, long).json()["prompt_eval_count"] == 8192
    reply = embed(slow, long, truncate=False)
    assert reply.status == 400
    assert "8192" in error(reply)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model", [1]),
        ("input", [1, {}, [1], [["a"]], ["a"] * 2049]),
        ("truncate", [1, "true"]),
        ("dimensions", [0, -1, "4", 1.5]),
        ("keep_alive", ["soon", []]),
        ("options", [[], {"seed": "a"}, {"mirostat": 7}]),
    ],
)
def test_a_wrong_value_names_the_field(scripted: ServerProcess, name: str, values: list[object]) -> None:
    for value in values:
        reply = ask(scripted.port, "POST", "/api/embed", {"input": "a", name: value})
        assert reply.status == 400, value
        assert f"'{name}" in error(reply)
        if name not in ("input", "truncate", "dimensions"):
            reply = ask(scripted.port, "POST", "/api/embeddings", {"prompt": "a", name: value})
            assert (reply.status, f"'{name}" in error(reply)) == (400, True)
    assert ask(scripted.port, "POST", "/api/embeddings", {"prompt": 1}).status == 400
