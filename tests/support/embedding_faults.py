"""Faults in OpenAI's embeddings."""

from __future__ import annotations

from fault_rules import EMBEDDINGS, at, fault, has, header, is_broken, put, refuse, whole

one_text = has(
    EMBEDDINGS, lambda body: isinstance(body.get("input"), str) and not {"encoding_format", "dimensions"} & set(body)
)
fault("embeddings-answers", "text", header(one_text, "content-type", "text/plain"))
fault("embeddings-shape", "no usage", whole(one_text, lambda body: body.pop("usage")))
fault("embeddings-shape", "no object", whole(one_text, lambda body: body["data"][0].pop("object")))
fault(
    "embeddings-order", "reversed", whole(at(EMBEDDINGS), lambda body: body["data"].sort(key=lambda row: -row["index"]))
)
fault(
    "embeddings-order",
    "alike",
    whole(
        has(EMBEDDINGS, lambda body: len(body.get("input", "")) == 3),
        lambda body: [put(row, "embedding", [1.0, 2.0, 3.0]) for row in body["data"]],
    ),
)
fault(
    "embeddings-base64",
    "ignored",
    whole(
        has(EMBEDDINGS, lambda body: "encoding_format" in body), lambda body: put(body["data"][0], "embedding", [1.0])
    ),
)
fault(
    "embeddings-base64",
    "other numbers",
    whole(
        has(EMBEDDINGS, lambda body: "encoding_format" in body),
        lambda body: put(body["data"][0], "embedding", "AACAPwAAgD8AAAAA"),
    ),
)
fault(
    "embeddings-tokens",
    "400",
    refuse(
        has(
            EMBEDDINGS, lambda body: isinstance(body.get("input", "")[0:1], list) and isinstance(body["input"][0], list)
        )
    ),
)
fault(
    "embeddings-dimensions",
    "ignored",
    whole(
        has(EMBEDDINGS, lambda body: "dimensions" in body),
        lambda body: put(body["data"][0], "embedding", [1.0, 2.0, 3.0]),
    ),
)
fault("embeddings-errors", "text", header(is_broken(EMBEDDINGS), "content-type", "text/plain"))
fault("embeddings-errors", "not named", refuse(has(EMBEDDINGS, lambda body: "input" not in body)))
