"""Reranking, in the form that Jina's and Cohere's APIs share."""

from __future__ import annotations

from typing import Any

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.dialects import RERANK, find
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session, describe, excerpt

THEME = Theme("Reranking", RERANK.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

#: Documents of several lengths, for the question about the sea.
_DOCUMENTS = ["The sea is wide and blue.", "A bicycle pump fills a tyre with air in a minute or two.", "Waves break."]
#: Rounding may depend on the batch.
_CLOSE = 0.02


@rule("rerank-answers", None, "a query with documents is answered with 200", ERROR, "every client")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, RERANK)


@rule(
    "rerank-shape",
    None,
    "results with an integer index and a number as relevance_score, model, integer usage",
    ERROR,
    "Open WebUI, LiteLLM and LangChain read these fields",
)
def shape(session: Session) -> str:
    body = session.plain_answer(RERANK)
    rows = _rows(body)
    require(isinstance(body.get("model"), str), f"model is {body.get('model')!r}")
    http_bodies.expect_positive_counts(body.get("usage"), "total_tokens")
    return f"{len(rows)} results"


@rule("rerank-order", None, "each document once, the best first", ERROR, "texts get each other's ranks")
def order(session: Session) -> str:
    rows = _ranked(session, _DOCUMENTS)
    indexes = [row["index"] for row in rows]
    require(sorted(indexes) == list(range(len(_DOCUMENTS))), f"index: {indexes}")
    scores = [row["relevance_score"] for row in rows]
    require(scores == sorted(scores, reverse=True), f"relevance_score: {scores}")
    return f"index: {indexes}"


@rule(
    "rerank-independent",
    None,
    "a document's score doesn't depend on the other documents",
    ERROR,
    "clients that send documents in batches get another order",
)
def independent(session: Session) -> str:
    together = {row["index"]: row["relevance_score"] for row in _ranked(session, _DOCUMENTS)}
    for index, document in enumerate(_DOCUMENTS):
        (row,) = _ranked(session, [document])
        seen = f"document {index} has {together.get(index)!r} beside others and {row['relevance_score']!r} alone"
        apart = abs(row["relevance_score"] - together.get(index, float("nan")))
        require(apart <= _CLOSE * max(1.0, abs(row["relevance_score"])), seen)
    return "the same alone and beside others"


@rule("rerank-top-n", None, "top_n gives the best ones; more than there are gives all", ERROR, "prompts get too long")
def top_n(session: Session) -> str:
    rows = sorted(_ranked(session, _DOCUMENTS), key=lambda row: -float(row["relevance_score"]))
    best = [row["index"] for row in rows]
    for asked in (2, 99):
        found = [row["index"] for row in _ranked(session, _DOCUMENTS, top_n=asked)]
        require(sorted(found) == sorted(best[:asked]), f"top_n {asked} gave {found}, and the best are {best}")
    return f"2 gave {best[:2]}"


@rule(
    "rerank-documents",
    None,
    "return_documents gives each document's own text",
    WARNING,
    "clients that use the returned text show another one",
)
def documents(session: Session) -> str:
    for row in _ranked(session, _DOCUMENTS, return_documents=True):
        text = find(row, "document", "text")
        require(text == _DOCUMENTS[row["index"]], f"document {row['index']} came back as {excerpt(str(text))}")
    return f"{len(_DOCUMENTS)} texts"


@rule("rerank-scores", None, "scores are from 0 to 1", WARNING, "Open WebUI's threshold drops documents below 0")
def scores(session: Session) -> str:
    found = [row["relevance_score"] for row in _ranked(session, _DOCUMENTS)]
    require(all(0 <= score <= 1 for score in found), f"relevance_score: {found}")
    return f"from {min(found):.3f} to {max(found):.3f}"


@rule(
    "rerank-errors",
    7,
    "a broken body, no query and no document are a 4xx with the error as JSON",
    ERROR,
    "clients show no reason",
)
def errors(session: Session) -> str:
    http_bodies.expect_error(RERANK, session.post(RERANK, b'{"broken"'), (400, 422))
    reply = session.post(RERANK, {"model": session.model, "documents": _DOCUMENTS})
    http_bodies.expect_error_naming(reply, "query", "left out")
    return http_bodies.expect_error_naming(
        session.post(RERANK, session.question_body(RERANK, documents=[])), "documents", "[]"
    )


def _ranked(session: Session, documents: list[str], **fields: Any) -> list[dict[str, Any]]:
    reply = session.post(RERANK, session.question_body(RERANK, documents=documents, **fields))
    require(reply.status == 200, describe(reply))
    return _rows(reply.json())


def _rows(body: Any) -> list[dict[str, Any]]:
    rows = find(body, "results")
    if rows is None:
        raise NotObserved("no results to look at")
    require(isinstance(rows, list) and bool(rows), f"results is {excerpt(str(rows))}")
    for row in rows:
        require(type(find(row, "index")) is int, f"index is {find(row, 'index')!r}")
        score = find(row, "relevance_score")
        require(type(score) in (int, float), f"relevance_score is {score!r}")
    return list(rows)
