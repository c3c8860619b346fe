"""Faults in reranking."""

from __future__ import annotations

from fault_rules import RERANK, at, fault, has, header, is_broken, put, refuse, whole
from model_server import Json


def shifted(body: Json) -> None:
    """Other scores, in the same order."""
    for row in body["results"]:
        row["relevance_score"] += 3.0


one = has(RERANK, lambda body: len(body.get("documents") or ()) == 1)
two_documents = has(RERANK, lambda body: len(body.get("documents") or ()) == 2)

fault("rerank-answers", "text", header(two_documents, "content-type", "text/plain"))
fault("rerank-shape", "no usage", whole(two_documents, lambda body: body.pop("usage")))
fault("rerank-shape", "index as text", whole(two_documents, lambda body: put(body["results"][0], "index", "0")))
fault("rerank-shape", "no score", whole(two_documents, lambda body: body["results"][-1].pop("relevance_score")))
fault(
    "rerank-order",
    "in the documents' order",
    whole(
        has(RERANK, lambda body: len(body.get("documents") or ()) == 3 and "top_n" not in body),
        lambda body: body["results"].sort(key=lambda row: row["index"]),
    ),
)
fault(
    "rerank-independent",
    "by rank",
    whole(one, lambda body: put(body["results"][0], "relevance_score", 0.999)),
)
fault(
    "rerank-top-n",
    "ignored",
    whole(
        has(RERANK, lambda body: body.get("top_n") == 2),
        lambda body: body["results"].append({"index": 2, "relevance_score": 0.0}),
    ),
)
fault("rerank-top-n", "refused", refuse(has(RERANK, lambda body: body.get("top_n") == 99)))
fault(
    "rerank-documents",
    "none",
    whole(
        has(RERANK, lambda body: body.get("return_documents")),
        lambda body: [row.pop("document") for row in body["results"]],
    ),
)
fault("rerank-scores", "logits", whole(at(RERANK), shifted))
fault("rerank-errors", "text", header(is_broken(RERANK), "content-type", "text/plain"))
fault("rerank-errors", "not named", refuse(has(RERANK, lambda body: "query" not in body)))
fault(
    "rerank-errors",
    "no documents",
    refuse(has(RERANK, lambda body: body.get("documents") == []), text="an empty list"),
)
