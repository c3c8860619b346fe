"""OpenAI's embeddings: ``POST /v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.protocol import Embed, Embedded, Pooling
from tailrace.server.dialects.openai.common_fields import Count, TokenId
from tailrace.server.dialects.openai.generation_params import refuse
from tailrace.server.embedding_vector import little_endian, vector_of

#: The API's own limit.
_MAX_INPUTS = 2048


class EmbeddingRequest(msgspec.Struct):
    """The body of a request for embeddings."""

    input: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=16_777_216)]
    model: str | None = None
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    # An extension
    pooling: Pooling | None = None
    # llama-server's and vLLM's: accepted
    request_id: str | None = None
    priority: int | None = None
    cache_salt: str | None = None
    truncation_side: Literal["left", "right"] | None = None
    # Refused, except for the value that equals the behaviour
    embd_normalize: int | None = None
    normalize: bool | None = None
    embed_dtype: str | None = None
    endianness: str | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    messages: list[Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None


_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "embd_normalize": (2,),
    "normalize": (True,),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "add_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "messages": (),
    "mm_processor_kwargs": ({},),
}
_WHY = {
    "embd_normalize": "every vector has length 1.",
    "normalize": "every vector has length 1.",
    "embed_dtype": "vectors are of float32.",
    "endianness": "base64 is of little-endian numbers.",
    "add_special_tokens": "a text gets the tokens that the model wants around it; send token ids to say which.",
    "truncate_prompt_tokens": "texts aren't cut; shorten them.",
    "messages": "send texts as 'input'; /apply-template makes one of messages.",
    "mm_processor_kwargs": "the model reads text alone.",
}


decoder = msgspec.json.Decoder(EmbeddingRequest)


def inputs(request: EmbeddingRequest) -> list[str | list[int]]:
    """The texts to embed, from the API's four forms. Raises InvalidRequest."""
    refuse(request, _SUPPORTED, _WHY)
    given = request.input
    if isinstance(given, str):
        texts: list[str | list[int]] = [given]
    elif all(isinstance(item, int) for item in given):
        texts = [[item for item in given if isinstance(item, int)]]
    elif all(isinstance(item, str) for item in given) or all(isinstance(item, list) for item in given):
        texts = [item for item in given if not isinstance(item, int)]
    else:
        raise InvalidRequest("'input' must be a string, strings, token ids or lists of token ids.", param="input")
    if not all(texts):
        raise InvalidRequest("'input' must not be or contain an empty text.", param="input")
    if len(texts) > _MAX_INPUTS:
        raise InvalidRequest(f"'input' may have at most {_MAX_INPUTS} texts.", param="input")
    return texts


def embed_query(identity: int, request: EmbeddingRequest, texts: list[str | list[int]]) -> Embed:
    """The engine's query for the request."""
    return Embed(id=identity, inputs=texts, pooling=request.pooling)


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Raise InvalidRequest when the model's vectors are shorter than the requested dimensions."""
    if request.dimensions is not None and request.dimensions > width:
        raise InvalidRequest(f"'dimensions' must be at most {width}, this model's own.", param="dimensions")


def embeddings(request: EmbeddingRequest, model: str, answers: list[Embedded]) -> dict[str, Any]:
    """The body of the reply."""
    tokens = sum(answer.tokens for answer in answers)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": answer.index, "embedding": _encoded(request, answer)}
            for answer in sorted(answers, key=lambda answer: answer.index)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(request: EmbeddingRequest, answer: Embedded) -> str | list[float]:
    vector = vector_of(answer, request.dimensions)
    if request.encoding_format == "base64":
        return base64.b64encode(little_endian(vector)).decode()
    return vector.tolist()
