"""Embeddings: the API's forms, the numbers' meaning, and what they do to replies that run beside them."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from openai_wire import Connection, Reply, ask, chat, metric
from servers import ServerProcess, wait_for

PATH = "/v1/embeddings"


def embed(server: ServerProcess, given: object, **fields: object) -> Reply:
    return ask(server.port, "POST", PATH, {"input": given, **fields})


def vectors(reply: Reply) -> list[np.ndarray]:
    assert reply.status == 200, reply.body
    return [np.array(entry["embedding"]) for entry in reply.json()["data"]]


def test_complete_reply(scripted: ServerProcess) -> None:
    body = embed(scripted, ["a", "bb"], model="fake", user="me").json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", "fake")
    assert [(entry["object"], entry["index"]) for entry in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["data"][0]["embedding"] == np.eye(16)[ord("a") % 16].tolist()
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_every_form_of_input(scripted: ServerProcess) -> None:
    expected = vectors(embed(scripted, "ab"))
    for given in (["ab"], [97, 98], [[97, 98]], [[97, 98], [97, 98]], ["ab", "ab"]):
        for found in vectors(embed(scripted, given)):
            assert found.tolist() == expected[0].tolist()


def test_many_inputs_come_in_order(scripted: ServerProcess) -> None:
    found = vectors(embed(scripted, [[token % 16] for token in range(2048)]))
    assert [int(vector.argmax()) for vector in found] == [token % 16 for token in range(2048)]


def test_base64_has_the_same_numbers(scripted: ServerProcess) -> None:
    plain = vectors(embed(scripted, "abc"))[0]
    coded = embed(scripted, "abc", encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain.astype("<f4").tolist()


def test_fewer_dimensions_are_the_first_ones_at_length_1(scripted: ServerProcess) -> None:
    whole = vectors(embed(scripted, "abcdef"))[0]
    short = vectors(embed(scripted, "abcdef", dimensions=4))[0]
    np.testing.assert_allclose(short, whole[:4] / np.linalg.norm(whole[:4]), atol=1e-6)
    assert vectors(embed(scripted, "abcdef", dimensions=16))[0].tolist() == whole.tolist()
    # Nothing is left of a vector whose first numbers are all 0, and nothing breaks.
    assert vectors(embed(scripted, [[15]], dimensions=2))[0].tolist() == [0, 0]


def test_pooling_can_be_chosen(scripted: ServerProcess) -> None:
    assert vectors(embed(scripted, "ab", pooling="cls"))[0].argmax() == ord("a") % 16
    assert vectors(embed(scripted, "ab", pooling="last"))[0].argmax() == ord("b") % 16


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("input", [None, 1, {}, [], "", [""], [[]], ["a", ""], [1.5], [1, "a"], [[1], "a"], [-1], [261], [["a"]]]),
        ("model", [1, []]),
        ("dimensions", [0, -1, 17, "4", 1.5, True]),
        ("encoding_format", ["hex", 1]),
        ("pooling", ["rank", "none", 1]),
        ("user", [1]),
    ],
)
def test_a_wrong_value_is_a_400_that_names_the_field(scripted: ServerProcess, field: str, values: list[object]) -> None:
    for value in values:
        reply = ask(scripted.port, "POST", PATH, {"input": "a", field: value})
        assert reply.status == 400, value
        error = reply.error()
        assert str(error["param"]).replace("[", ".").split(".")[0] == field, (value, error)
    reply = embed(scripted, ["a"] * 2049)
    assert (reply.status, reply.error()["param"]) == (400, "input")
    assert embed(scripted, "a", model="other").status == 404
    nulls = dict.fromkeys(("model", "dimensions", "encoding_format", "user", "pooling"))
    assert embed(scripted, "a", **nulls, unknown=1).status == 200


def test_a_text_that_does_not_fit_names_both_numbers(real: ServerProcess) -> None:
    reply = embed(real, ["short", "word " * 3000])
    error = reply.error()
    assert (reply.status, error["param"], error["code"]) == (400, "input", "context_length_exceeded")
    assert "2048" in error["message"]
    assert "input 1 has 300" in error["message"]


def test_alike_texts_are_near_each_other(real: ServerProcess) -> None:
    """With OpenAI's own client, which asks for base64."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{real.port}/v1", api_key="any")
    texts = ["The cat sat on the mat.", "A kitten is on the rug.", "Stock prices fell sharply today."]
    together = [np.array(entry.embedding) for entry in client.embeddings.create(model="smollm2-135m", input=texts).data]
    assert together[0] @ together[1] > together[0] @ together[2] + 0.05
    for text, vector in zip(texts, together, strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        alone = np.array(client.embeddings.create(model="smollm2-135m", input=text).data[0].embedding)
        assert alone @ vector > 0.999, "company changes nothing but the rounding"


def test_concurrent_replies_are_unchanged(real: ServerProcess) -> None:
    body = chat("Count from one to twenty in words.", temperature=0, max_tokens=40, logprobs=True)
    alone = ask(real.port, "POST", "/v1/chat/completions", body).json()["choices"][0]
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(embed, real, ["The quick brown fox jumps over the lazy dog. " * 20] * 4)
        beside = ask(real.port, "POST", "/v1/chat/completions", body).json()["choices"][0]
        assert len(vectors(reading.result())) == 4
    assert beside["message"] == alone["message"]


def test_a_client_that_goes_away_stops_the_reading(real: ServerProcess) -> None:
    with Connection(real.port) as connection:
        connection.request("POST", PATH, {"input": ["word " * 1500] * 100})
    # Who comes behind would wait for minutes otherwise.
    assert len(vectors(embed(real, "next"))) == 1
    wait_for("the engine to be idle", lambda: metric(real.port, "vllm:num_requests_running") == 0)
