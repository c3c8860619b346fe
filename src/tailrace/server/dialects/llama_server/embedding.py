"""llama-server's ``/embedding``: a list with an object for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.messages import Embedded
from tailrace.server.dialects.openai.embeddings import EmbeddingRequest, inputs
from tailrace.server.dialects.openai.sampling import TokenId
from tailrace.server.vector import vector_of

Texts = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=16_777_216)]
#: Length 1 by the sum of squares: what the engine's vectors have.
_EUCLIDEAN = 2


class NativeEmbeddingRequest(msgspec.Struct):
    """The body; ``input`` is another name for ``content``."""

    content: Texts | None = None
    input: Texts | None = None
    model: str | None = None
    embd_normalize: int | None = None


decoder = msgspec.json.Decoder(NativeEmbeddingRequest)


def texts_of(request: NativeEmbeddingRequest) -> tuple[list[str | list[int]], str]:
    """What is to be embedded, and the field that it stands in. Raises InvalidRequest."""
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
    try:
        return inputs(EmbeddingRequest(input=given)), field
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace("'input'", f"'{field}'"), param=field) from None


def embedded(answers: Sequence[Embedded]) -> list[dict[str, Any]]:
    """The body of the reply: without a pooling there would be several vectors, so each text has a list of them."""
    ordered = sorted(answers, key=lambda answer: answer.index)
    return [{"index": answer.index, "embedding": [vector_of(answer, None).tolist()]} for answer in ordered]
