"""llama-server's ``/embedding``: a list with an object for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.protocol import Embedded
from tailrace.server.dialects.llama_server.request_fields import Prompts
from tailrace.server.embedding_vector import vector_of

#: Of one request, as in OpenAI's.
_MAX_TEXTS = 2048
#: Euclidean norm 1, as the engine's vectors have.
_EUCLIDEAN = 2


class NativeEmbeddingRequest(msgspec.Struct):
    """The body; ``input`` is another name for ``content``."""

    content: Prompts | None = None
    input: Prompts | None = None
    model: str | None = None
    embd_normalize: int | None = None


decoder = msgspec.json.Decoder(NativeEmbeddingRequest)


def texts_of(request: NativeEmbeddingRequest) -> tuple[Prompts, str]:
    """The texts to embed, and the field that has them. Raises InvalidRequest."""
    if request.embd_normalize not in (None, _EUCLIDEAN):
        raise InvalidRequest(
            "'embd_normalize': only 2, vectors of length 1, is supported.",
            param="embd_normalize",
            code="unsupported_value",
        )
    field = "input" if request.input is not None else "content"
    given = getattr(request, field)
    if given is None:
        raise InvalidRequest("'content' is missing: the texts to embed.", param="content")
    return given, field


def check(texts: Sequence[str | list[int]], field: str) -> None:
    """Raise InvalidRequest for texts that can't be embedded."""
    if not all(texts):
        raise InvalidRequest(f"'{field}' must not be or contain an empty text.", param=field)
    if len(texts) > _MAX_TEXTS:
        raise InvalidRequest(f"'{field}' may have at most {_MAX_TEXTS} texts.", param=field)


def embedded(answers: Sequence[Embedded]) -> list[dict[str, Any]]:
    """The body of the reply: without a pooling there would be several vectors, so each text has a list of them."""
    ordered = sorted(answers, key=lambda answer: answer.index)
    return [{"index": answer.index, "embedding": [vector_of(answer, None).tolist()]} for answer in ordered]
