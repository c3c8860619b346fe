"""Reranking: the APIs' forms, what their fields do, and what is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, metric
from servers import ServerProcess, wait_for

#: The scripted backend ranks by letters in common: 3, -2, 0 and 1.
DOCUMENTS = ["abc", "xyb", "bx", "a"]
SCORES = [3, -1, 0, 1]


def rerank(server: ServerProcess, path: str = "/v1/rerank", /, **fields: Any) -> Reply:
    return ask(server.port, "POST", path, {"query": "abc", "documents": DOCUMENTS, **fields})


def sigmoid(number: float) -> float:
    return 1 / (1 + math.exp(-number))


def rows(reply: Reply) -> list[dict[str, object]]:
    assert reply.status == 200, reply.body
    found: list[dict[str, object]] = reply.json()["results"]
    return found


def order(reply: Reply) -> list[object]:
    return [row["index"] for row in rows(reply)]


def test_complete_reply(scripted: ServerProcess) -> None:
    body = rerank(scripted, model="fake").json()
    assert set(body) == {"id", "object", "model", "results", "usage", "meta"}
    assert (body["object"], body["model"]) == ("list", "fake")
    assert isinstance(body["id"], str)
    assert [row["index"] for row in body["results"]] == [0, 3, 2, 1]
    for row in body["results"]:
        assert set(row) == {"index", "relevance_score", "document"}
        assert row["document"] == {"text": DOCUMENTS[row["index"]]}
        assert row["relevance_score"] == pytest.approx(sigmoid(SCORES[row["index"]]))
    tokens = sum(len("abc") + len(document) + 2 for document in DOCUMENTS)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert body["meta"]["tokens"] == {"input_tokens": tokens}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/reranking", "/v1/reranking"])
def test_every_path_answers_alike(scripted: ServerProcess, path: str) -> None:
    body = rerank(scripted, path).json()
    assert body["results"] == rerank(scripted).json()["results"]
    assert body["meta"]["api_version"] == {"version": "1"}


def test_coheres_second_version(scripted: ServerProcess) -> None:
    body = rerank(scripted, "/v2/rerank", model="fake", top_n=2).json()
    assert [set(row) for row in body["results"]] == [{"index", "relevance_score"}] * 2
    assert body["meta"]["api_version"] == {"version": "2"}
    documented = rerank(scripted, "/v2/rerank", return_documents=True)
    assert rows(documented)[0]["document"] == {"text": "abc"}


def test_documents_as_objects_and_without_their_texts(scripted: ServerProcess) -> None:
    objects = [{"text": document, "id": place} for place, document in enumerate(DOCUMENTS)]
    assert rows(rerank(scripted, documents=objects))[0]["document"] == {"text": "abc", "id": 0}
    assert order(rerank(scripted, documents=["a", {"text": "abc"}])) == [1, 0]
    assert set(rows(rerank(scripted, return_documents=False))[0]) == {"index", "relevance_score"}


def test_rank_fields_choose_the_texts(scripted: ServerProcess) -> None:
    objects = [{"title": "x", "body": "abc"}, {"title": "ab", "body": "xyz"}]
    assert order(rerank(scripted, documents=objects, rank_fields=["body"])) == [0, 1]
    assert order(rerank(scripted, documents=objects, rank_fields=["title"])) == [1, 0]
    both = rerank(scripted, documents=objects, rank_fields=["title", "body"]).json()
    assert both["usage"]["prompt_tokens"] == 2 * len("abc") + len("x\nabc") + len("ab\nxyz") + 4
    reply = rerank(scripted, documents=objects, rank_fields=["author"])
    assert (reply.status, reply.error()["param"]) == (400, "documents[0]")


@pytest.mark.parametrize(("given", "count"), [(1, 1), (2, 2), (99, 4), (0, 4), (None, 4), (2.0, 2)])
def test_top_n(scripted: ServerProcess, given: object, count: int) -> None:
    assert order(rerank(scripted, top_n=given)) == [0, 3, 2, 1][:count]


def test_open_webuis_request_is_answered_as_it_reads_it(scripted: ServerProcess) -> None:
    """Its ``ExternalReranker`` wants all documents, and sorts the results by their index."""
    body = {"model": "fake", "query": "abc", "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    results = ask(scripted.port, "POST", "/v1/rerank", body, {"authorization": "Bearer any"}).json()["results"]
    scores = [row["relevance_score"] for row in sorted(results, key=lambda row: int(row["index"]))]
    assert scores == pytest.approx([sigmoid(score) for score in SCORES])


def test_scores_of_the_classifier_itself(scripted: ServerProcess) -> None:
    for field, value in (("raw_scores", True), ("use_activation", False), ("activation", False)):
        assert [row["relevance_score"] for row in rows(rerank(scripted, **{field: value}))] == [3, 1, 0, -1]


def test_equal_scores_are_in_the_documents_order(scripted: ServerProcess) -> None:
    many = ["abc", "x"] * 300
    found = order(rerank(scripted, documents=many))
    assert found == [*range(0, 600, 2), *range(1, 600, 2)]
    # More than a sigmoid can tell apart.
    body = rerank(
        scripted,
        query="".join(map(chr, range(32, 127))),
        documents=["".join(map(chr, range(32, end))) for end in (90, 126, 110)],
    )
    assert order(body) == [1, 2, 0]


def test_teis_form(scripted: ServerProcess) -> None:
    body = {"query": "abc", "texts": DOCUMENTS}
    plain = ask(scripted.port, "POST", "/rerank", body).json()
    assert [set(row) for row in plain] == [{"index", "score"}] * 4
    assert [row["index"] for row in plain] == [0, 3, 2, 1]
    assert plain[0]["score"] == pytest.approx(sigmoid(3))
    raw = ask(scripted.port, "POST", "/rerank", {**body, "raw_scores": True, "return_text": True}).json()
    assert raw[0] == {"index": 0, "score": 3, "text": "abc"}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("query", [None, "", "  ", 1, ["abc"], {}]),
        (
            "documents",
            [None, [], "abc", 123, [1], [None], [["a"]], [{}], [{"text": 1}], [{"image": "a"}], ["a"] * 2049],
        ),
        ("model", [1, []]),
        ("top_n", [-1, "2", 1.5, True]),
        ("return_documents", ["yes", 1]),
        ("rank_fields", [[], "text", [1]]),
        ("max_tokens_per_doc", [0, "10"]),
        ("max_chunks_per_doc", [0, 10]),
        ("truncate", ["yes"]),
        ("truncation_direction", ["up"]),
        ("truncate_prompt_tokens", [-2, 512]),
        ("raw_scores", ["no"]),
        ("instruction", ["Judge the code"]),
        ("mm_processor_kwargs", [{"a": 1}]),
    ],
)
def test_a_wrong_value_is_a_400_that_names_the_field(scripted: ServerProcess, field: str, values: list[object]) -> None:
    for value in values:
        reply = rerank(scripted, **{field: value})
        assert reply.status == 400, value
        error = reply.error()
        assert str(error["param"]).split("[")[0] == field, (value, error)


def test_both_names_and_wrong_texts_are_refused(scripted: ServerProcess) -> None:
    assert rerank(scripted, texts=["a"]).error()["param"] == "texts"
    for texts in ([], [1], "a", ["a"] * 2049):
        reply = ask(scripted.port, "POST", "/rerank", {"query": "a", "texts": texts})
        assert (reply.status, str(reply.error()["param"]).split("[")[0]) == (400, "texts")
    assert rerank(scripted, model="other").status == 404
    nulls = ("model", "top_n", "return_documents", "texts", "rank_fields", "max_tokens_per_doc", "truncate", "user")
    assert rerank(scripted, **dict.fromkeys(nulls), unknown=1).status == 200


def test_a_long_document_is_refused_or_cut_as_the_api_says(slow: ServerProcess) -> None:
    """The scripted backend has a context of 8192 tokens, each a byte."""
    long: dict[str, Any] = {"documents": ["x", "x" * 8200 + "abc" * 30]}
    error = rerank(slow, **long).error()
    assert (error["param"], error["code"], error["n_ctx"]) == ("documents", "context_length_exceeded", 8192)
    assert "document 1" in error["message"]
    cut = rerank(slow, truncate=True, **long)
    assert cut.json()["usage"]["total_tokens"] == 6 + 8192
    assert order(cut) == [0, 1]
    for field, side in (("truncation_direction", "Left"), ("truncation_side", "left")):
        assert order(rerank(slow, truncate=True, **{field: side}, **long)) == [1, 0]
    cutting: dict[str, Any] = {"truncation": True, "max_chunks_per_doc": 1, "truncate_prompt_tokens": -1}
    for field, value in cutting.items():
        assert rerank(slow, **{field: value}, **long).json()["usage"]["total_tokens"] == 6 + 8192
    assert rerank(slow, "/v2/rerank", **long).json()["usage"]["total_tokens"] == 6 + 8192
    few = rerank(slow, max_tokens_per_doc=10, **long)
    assert few.json()["usage"]["total_tokens"] == 6 + 5 + 10
    refused = rerank(slow, "/v2/rerank", query="q" * 8192)
    assert (refused.status, refused.error()["param"]) == (400, "query")


def test_a_long_query_for_many_documents_is_refused(scripted: ServerProcess) -> None:
    """The body is small, and the engine would read the query 2,000 times."""
    reply = rerank(scripted, query="q" * 8001, documents=["a"] * 2000)
    assert (reply.status, reply.error()["param"]) == (400, "query")
    assert "16002000" in reply.error()["message"]


def test_many_documents_are_ranked_together(scripted: ServerProcess) -> None:
    documents = [f"{'abc'[: place % 4]}" for place in range(2048)]
    found = rows(rerank(scripted, documents=documents))
    assert len(found) == 2048
    assert all(place % 4 == 3 for place in (row["index"] for row in found[:512]) if isinstance(place, int))


def test_a_model_that_is_no_reranker_says_so(real: ServerProcess) -> None:
    for path in ("/v1/rerank", "/reranking", "/v2/rerank"):
        error = rerank(real, path).error()
        assert error["param"] == "model"
        assert "isn't a reranker" in error["message"]


def test_a_client_that_goes_away_stops_the_ranking(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/rerank", {"query": "a" * 1000, "documents": ["b" * 4000] * 100})
    wait_for("the engine to be idle", lambda: metric(slow.port, "vllm:num_requests_running") == 0)
    assert order(rerank(slow)) == [0, 3, 2, 1]


def test_a_key_is_required(keyed: ServerProcess) -> None:
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        assert rerank(keyed, path).status == 401
