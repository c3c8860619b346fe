"""The body of a request to rerank. One struct has the fields of all APIs: a client sends those that it knows.

Sources: Jina's and Cohere's API references (v1 and v2), text-embeddings-inference's and vLLM's request classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.protocol import Rank
from tailrace.server.served_model import ServedModel

_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
#: A document as the client sent it: text, or an object with the text in one of its fields.
Document = str | dict[str, Any]
#: Characters of a document that the engine gets in any case: some tokens stand for very long words.
_MIN_CHARACTERS = 100_000
#: Characters of the query times documents, at most: the model reads the query with each document, so a small body could
#: make the engine hold gigabytes of tokens.
_MAX_REPEATED = 16_000_000


class RerankRequest(msgspec.Struct):
    """See the module. ``documents`` is Jina's and Cohere's field, ``texts`` TEI's."""

    query: str
    documents: list[Document] | None = None
    texts: list[str] | None = None
    model: str | None = None
    top_n: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None  #: None and 0 (vLLM's default): all
    return_documents: bool | None = None
    rank_fields: Annotated[list[str], Meta(min_length=1, max_length=64)] | None = None
    max_tokens_per_doc: _Count | None = None
    max_chunks_per_doc: _Count | None = None
    truncate: bool | None = None
    truncation: bool | None = None
    # TEI's
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    # vLLM's
    truncation_side: Literal["left", "right"] | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    use_activation: bool | None = None
    activation: bool | None = None
    # Accepted: they change nothing of the scores
    user: str | None = None
    request_id: str | None = None
    priority: int | None = None
    cache_salt: str | None = None
    # Refused, except for the value that equals the behaviour
    instruction: str | None = None
    mm_processor_kwargs: dict[str, Any] | None = None

    @property
    def is_tei(self) -> bool:
        """Whether the client speaks text-embeddings-inference's API."""
        return self.texts is not None

    @property
    def raw(self) -> bool:
        """Whether the scores are the classifier's own numbers."""
        return bool(self.raw_scores) or self.use_activation is False or self.activation is False

    @property
    def cuts(self) -> bool:
        """Whether long documents are cut."""
        limits = self.max_tokens_per_doc is not None or self.max_chunks_per_doc is not None
        return limits or bool(self.truncate or self.truncation) or self.truncate_prompt_tokens is not None

    @property
    def keeps_end(self) -> bool:
        """Whether a long document's start is cut off."""
        return "left" in ((self.truncation_direction or "").lower(), self.truncation_side)


_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "max_chunks_per_doc": (1,),
    "truncate_prompt_tokens": (-1,),
    "instruction": ("",),
    "mm_processor_kwargs": ({},),
}
_WHY = {
    "max_chunks_per_doc": "only 1 is supported: a long document is cut, and not divided. See 'max_tokens_per_doc'.",
    "truncate_prompt_tokens": "only -1, the model's own limit, is supported. See 'max_tokens_per_doc'.",
    "instruction": "the instruction is a part of the model's template. Write it into the query.",
    "mm_processor_kwargs": "the model reads text alone.",
}

decoder = msgspec.json.Decoder(RerankRequest)


def texts_of(request: RerankRequest) -> list[str]:
    """The documents' texts. Raises InvalidRequest for fields that can't be honoured."""
    for name, values in _SUPPORTED.items():
        given = getattr(request, name)
        if given is not None and given not in values:
            raise InvalidRequest(f"'{name}': {_WHY[name]}", param=name, code="unsupported_value")
    if not request.query.strip():
        raise InvalidRequest("'query' must not be empty.", param="query")
    field = documents_field(request)
    documents: list[Document] | list[str] | None = request.texts if request.is_tei else request.documents
    if documents is not None and request.is_tei and request.documents is not None:
        raise InvalidRequest("'documents' and 'texts' are two names of one field; send one.", param="texts")
    if not documents:
        raise InvalidRequest(f"'{field}' must have at least one document.", param=field)
    if (repeated := len(request.query) * len(documents)) > _MAX_REPEATED:
        raise InvalidRequest(
            f"'query' is read with each document, which makes {repeated} characters of at most {_MAX_REPEATED}. "
            "Shorten it, or send fewer documents.",
            param="query",
        )
    return [_text(document, f"{field}[{place}]", request.rank_fields) for place, document in enumerate(documents)]


def documents_field(request: RerankRequest) -> str:
    """The name of the field that has the documents."""
    return "texts" if request.is_tei else "documents"


def _text(document: Document, path: str, fields: list[str] | None) -> str:
    """A document's text: a string itself, of an object the fields ``fields`` one under the other (Cohere's v1)."""
    if isinstance(document, str):
        return document
    return "\n".join(_field(document, name, path) for name in fields or ["text"])


def _field(document: Mapping[str, Any], name: str, path: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        what = f"has no '{name}'" if value is None else f"'{name}' must be a string"
        raise InvalidRequest(f"'{path}': {what}. A document is a string, or an object with its text.", param=path)
    return value


def rank_query(identity: int, request: RerankRequest, texts: list[str], model: ServedModel, *, cuts: bool) -> Rank:
    """The engine's query. ``cuts``: long documents are cut where the request doesn't say it, too."""
    cuts = cuts or request.cuts
    keep_end = request.keeps_end
    if cuts:
        # Tokens beyond the context are cut off, so their text isn't sent to the engine.
        max_length = max(_MIN_CHARACTERS, model.info.context * model.max_token_bytes)
        texts = [
            text if len(text) <= max_length else text[-max_length:] if keep_end else text[:max_length] for text in texts
        ]
    return Rank(
        id=identity,
        query=request.query,
        documents=texts,
        truncate=cuts,
        keep_end=keep_end,
        document_tokens=request.max_tokens_per_doc,
    )
