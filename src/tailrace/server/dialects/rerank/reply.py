"""The body of a reply: results, best first. Jina's and Cohere's fields stand side by side; TEI's is a bare list."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from tailrace.protocol import Ranked, RankScore
from tailrace.server.dialects.rerank.request import Document, RerankRequest

#: Documents of one of Cohere's units of billing.
_UNIT_DOCUMENTS = 100


def results(
    request: RerankRequest, answers: Sequence[Ranked], score: RankScore | None, *, returns_documents: bool
) -> list[dict[str, Any]]:
    """The best documents, as many as the request wants. Equal scores are in the documents' order."""
    ordered = sorted(answers, key=lambda answer: (-answer.score, answer.index))
    logits = score == "logit" and not request.raw
    label = "score" if request.is_tei else "relevance_score"
    rows: list[dict[str, Any]] = []
    for answer in ordered[: request.top_n or len(ordered)]:
        row: dict[str, Any] = {"index": answer.index, label: _sigmoid(answer.score) if logits else answer.score}
        if request.texts is not None:
            if request.return_text:
                row["text"] = request.texts[answer.index]
        elif request.documents is not None and returns_documents:
            row["document"] = _document(request.documents[answer.index])
        rows.append(row)
    return rows


def body(
    rows: list[dict[str, Any]], answers: Sequence[Ranked], model: str, version: Literal["1", "2"]
) -> dict[str, Any]:
    """The reply around the results. ``version``: that of Cohere's API."""
    tokens = sum(answer.tokens for answer in answers)
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "list",
        "model": model,
        "results": rows,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": math.ceil(len(answers) / _UNIT_DOCUMENTS)},
            "tokens": {"input_tokens": tokens},
        },
    }


def _document(document: Document) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else document


def _sigmoid(logit: float) -> float:
    """A logit as a number between 0 and 1. The exponent is never positive, so it can't overflow."""
    power = math.exp(-abs(logit))
    return 1 / (1 + power) if logit >= 0 else power / (1 + power)
