"""OpenAI's embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.dialects import EMBEDDINGS, find
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session, describe, excerpt

THEME = Theme("Embeddings", EMBEDDINGS.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING


@rule("embeddings-answers", None, "an embedding is answered with 200", ERROR, "every client")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, EMBEDDINGS)


@rule(
    "embeddings-shape",
    None,
    "object list, rows with object, index and numbers; integer usage",
    ERROR,
    "typed clients fail to read it",
)
def shape(session: Session) -> str:
    body = session.plain_answer(EMBEDDINGS)
    require(body.get("object") == "list", f"object is {body.get('object')!r}")
    require(isinstance(body.get("model"), str), f"model is {body.get('model')!r}")
    require(find(body, "data", 0, "object") == "embedding", f"object is {find(body, 'data', 0, 'object')!r}")
    vector = _vector(find(body, "data", 0, "embedding"))
    http_bodies.expect_positive_counts(body.get("usage"), "prompt_tokens", "total_tokens")
    return f"{len(vector)} numbers"


@rule(
    "embeddings-order",
    None,
    "several inputs give as many rows, in their order",
    ERROR,
    "texts get each other's vectors",
)
def order(session: Session) -> str:
    texts = ["The sea.", "A bicycle pump.", "The sea."]
    reply = session.post(EMBEDDINGS, session.question_body(EMBEDDINGS, input=texts))
    require(reply.status == 200, describe(reply))
    rows = find(reply.json(), "data")
    require(isinstance(rows, list) and len(rows) == len(texts), f"data is {excerpt(str(rows))}")
    require([find(row, "index") for row in rows] == [0, 1, 2], f"index: {[find(row, 'index') for row in rows]}")
    first, second, third = (_vector(find(row, "embedding")) for row in rows)
    require(_alike(first, third) and not _alike(first, second), "equal texts have other vectors, or others equal ones")
    return "3 rows"


@rule(
    "embeddings-base64",
    None,
    "encoding_format base64 gives the same vector as little-endian float32",
    ERROR,
    "openai-python asks for base64 by itself",
)
def in_base64(session: Session) -> str:
    floats = _vector(find(session.plain_answer(EMBEDDINGS), "data", 0, "embedding"))
    reply = session.post(EMBEDDINGS, session.question_body(EMBEDDINGS, encoding_format="base64"))
    require(reply.status == 200, describe(reply))
    text = find(reply.json(), "data", 0, "embedding")
    require(isinstance(text, str), f"embedding is {excerpt(str(text))}")
    try:
        raw = base64.b64decode(text, validate=True)
        packed = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (ValueError, struct.error):
        packed = []
    require(_alike(packed, floats), f"other numbers than without it: {excerpt(str(packed))}")
    return f"{len(packed)} numbers"


@rule("embeddings-tokens", None, "the input may be token ids", WARNING, "langchain-openai sends them by itself")
def tokens(session: Session) -> str:
    reply = session.post(EMBEDDINGS, session.question_body(EMBEDDINGS, input=[[1, 2, 3], [4, 5]]))
    require(reply.status == 200, describe(reply))
    rows = find(reply.json(), "data")
    require(isinstance(rows, list) and len(rows) == 2, f"data is {excerpt(str(rows))}")
    return "2 rows"


@rule(
    "embeddings-dimensions",
    None,
    "dimensions is obeyed, or refused by name",
    WARNING,
    "stores of vectors refuse other lengths",
)
def dimensions(session: Session) -> str:
    reply = session.post(EMBEDDINGS, session.question_body(EMBEDDINGS, dimensions=8))
    if reply.status != 200:
        return http_bodies.expect_error_naming(reply, "dimensions", "8")
    length = len(_vector(find(reply.json(), "data", 0, "embedding")))
    require(length == 8, f"8 gave {length} numbers")
    return "8 gave 8 numbers"


@rule(
    "embeddings-errors",
    7,
    "a broken body and a missing input are a 4xx with the error as JSON",
    ERROR,
    "clients show no reason",
)
def errors(session: Session) -> str:
    http_bodies.expect_error(EMBEDDINGS, session.post(EMBEDDINGS, b'{"broken"'), (400, 422))
    return http_bodies.expect_error_naming(session.post(EMBEDDINGS, {"model": session.model}), "input", "left out")


def _vector(value: Any) -> list[float]:
    if value is None:
        raise NotObserved("no embedding to look at")
    holds = isinstance(value, list) and value and all(isinstance(number, int | float) for number in value)
    require(holds, f"embedding is {excerpt(str(value))}")
    return [float(number) for number in value]


def _alike(one: list[float], other: list[float]) -> bool:
    """Whether two vectors point the same way, but for rounding."""
    product = sum(a * b for a, b in zip(one, other, strict=False))
    size = (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
    return len(one) == len(other) and size > 0 and product / size > 0.9999
