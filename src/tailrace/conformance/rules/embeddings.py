"""OpenAI's embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Any

from tailrace.conformance import judge
from tailrace.conformance.dialects import EMBEDDINGS, find
from tailrace.conformance.rule import NotSeen, Severity, Theme, expect
from tailrace.conformance.session import Session, shown, summary

THEME = Theme("Embeddings", EMBEDDINGS.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING


@rule("embeddings-answers", None, "an embedding is answered with 200", ERROR, "every client")
def answers(session: Session) -> str:
    return judge.answers(session, EMBEDDINGS)


@rule(
    "embeddings-shape",
    None,
    "object list, rows with object, index and numbers; integer usage",
    ERROR,
    "typed clients fail to read it",
)
def shape(session: Session) -> str:
    body = session.answered(EMBEDDINGS)
    expect(body.get("object") == "list", f"object is {body.get('object')!r}")
    expect(isinstance(body.get("model"), str), f"model is {body.get('model')!r}")
    expect(find(body, "data", 0, "object") == "embedding", f"object is {find(body, 'data', 0, 'object')!r}")
    vector = _vector(find(body, "data", 0, "embedding"))
    judge.counts(body.get("usage"), "prompt_tokens", "total_tokens")
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
    reply = session.post(EMBEDDINGS, session.question(EMBEDDINGS, input=texts))
    expect(reply.status == 200, summary(reply))
    rows = find(reply.json(), "data")
    expect(isinstance(rows, list) and len(rows) == len(texts), f"data is {shown(str(rows))}")
    expect([find(row, "index") for row in rows] == [0, 1, 2], f"index: {[find(row, 'index') for row in rows]}")
    first, second, third = (_vector(find(row, "embedding")) for row in rows)
    expect(_alike(first, third) and not _alike(first, second), "equal texts have other vectors, or others equal ones")
    return "3 rows"


@rule(
    "embeddings-base64",
    None,
    "encoding_format base64 gives the same vector as little-endian float32",
    ERROR,
    "openai-python asks for base64 by itself",
)
def in_base64(session: Session) -> str:
    floats = _vector(find(session.answered(EMBEDDINGS), "data", 0, "embedding"))
    reply = session.post(EMBEDDINGS, session.question(EMBEDDINGS, encoding_format="base64"))
    expect(reply.status == 200, summary(reply))
    text = find(reply.json(), "data", 0, "embedding")
    expect(isinstance(text, str), f"embedding is {shown(str(text))}")
    try:
        raw = base64.b64decode(text, validate=True)
        packed = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (ValueError, struct.error):
        packed = []
    expect(_alike(packed, floats), f"other numbers than without it: {shown(str(packed))}")
    return f"{len(packed)} numbers"


@rule("embeddings-tokens", None, "the input may be token ids", WARNING, "langchain-openai sends them by itself")
def tokens(session: Session) -> str:
    reply = session.post(EMBEDDINGS, session.question(EMBEDDINGS, input=[[1, 2, 3], [4, 5]]))
    expect(reply.status == 200, summary(reply))
    rows = find(reply.json(), "data")
    expect(isinstance(rows, list) and len(rows) == 2, f"data is {shown(str(rows))}")
    return "2 rows"


@rule(
    "embeddings-dimensions",
    None,
    "dimensions is kept or refused by name",
    WARNING,
    "stores of vectors refuse other lengths",
)
def dimensions(session: Session) -> str:
    reply = session.post(EMBEDDINGS, session.question(EMBEDDINGS, dimensions=8))
    if reply.status != 200:
        return judge.named(reply, "dimensions", "8")
    length = len(_vector(find(reply.json(), "data", 0, "embedding")))
    expect(length == 8, f"8 gave {length} numbers")
    return "8 gave 8 numbers"


@rule(
    "embeddings-errors",
    7,
    "a broken body and a missing input are a 4xx with the error as JSON",
    ERROR,
    "clients show no reason",
)
def errors(session: Session) -> str:
    judge.refused(EMBEDDINGS, session.post(EMBEDDINGS, b'{"broken"'), (400, 422))
    return judge.named(session.post(EMBEDDINGS, {"model": session.model}), "input", "left out")


def _vector(value: Any) -> list[float]:
    if value is None:
        raise NotSeen("no embedding to look at")
    holds = isinstance(value, list) and value and all(isinstance(number, int | float) for number in value)
    expect(holds, f"embedding is {shown(str(value))}")
    return [float(number) for number in value]


def _alike(one: list[float], other: list[float]) -> bool:
    """Whether two vectors point the same way, but for rounding."""
    product = sum(a * b for a, b in zip(one, other, strict=False))
    size = (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
    return len(one) == len(other) and size > 0 and product / size > 0.9999
