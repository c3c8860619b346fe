"""A reranker's pairs of a query and a document: the check of a request, and the jobs that ``embedding_queue`` computes.

A pair is the query's part, which all pairs share, then the document's tokens, then the end. Only the document is cut.
"""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.engine.backends.base import Backend, RankFormat
from tailrace.engine.embeddings import EmbeddingJob, too_long
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.prompt_text import PromptText
from tailrace.protocol import Rank, Refused

_QUERY, _DOCUMENT = "{query}", "{document}"


def texts_to_tokenise(backend: Backend, request: Rank) -> list[TokenizerInput] | Refused:
    """The texts whose tokens ``make_jobs`` needs, or why the request can't be answered."""
    rank_format = _format_of(backend)
    if rank_format is None:
        return Refused(request.id, "unsupported", "this model isn't a reranker: its file has no classifier of pairs")
    context = backend.info.context
    if (min_tokens := _min_tokens(backend, request.query)) > context:
        return too_long(request.id, "the query", context, min_tokens, f"at least {min_tokens}", "query")
    for index, document in enumerate(request.documents):
        if not request.truncate and (min_tokens := _min_tokens(backend, document)) > context:
            return too_long(request.id, f"document {index}", context, min_tokens, f"at least {min_tokens}")
    if rank_format.template is None:
        plain = (TokenizerInput(text, parse_special=False, add_special=False) for text in request.documents)
        return [TokenizerInput(request.query, parse_special=False, add_special=False), *plain]
    head, _, tail = rank_format.template.partition(_DOCUMENT)
    start = _with_query(head, request.query)
    # The document's first letters may be in one token with the template's last ones.
    texts = [start, _with_query(tail, request.query), *(start.append_literal(text) for text in request.documents)]
    return [TokenizerInput.of_prompt(text, add_special=False) for text in texts]


def make_jobs(backend: Backend, request: Rank, tokenised: Iterable[list[int]]) -> list[EmbeddingJob] | Refused:
    """A job for each document, or why the request can't be answered. ``tokenised``: the tokens of its texts."""
    rank_format = _format_of(backend)
    assert rank_format is not None, "texts_to_tokenise refuses the request otherwise"
    head, *texts = tokenised
    if rank_format.template is None:
        if not head:
            return Refused(request.id, "invalid_prompt", "the query has no tokens", field="query")
        head, tail = [*rank_format.before, *head, *rank_format.between], [*rank_format.after]
        texts = [[*head, *tokens] for tokens in texts]
    else:
        tail = texts.pop(0)
    context = backend.info.context
    capacity = context - len(head) - len(tail)  # For a document's tokens.
    if capacity <= 0:
        count = len(head) + len(tail)
        return too_long(request.id, "the query alone", context, count, str(count), "query")
    allowed = capacity if request.document_tokens is None else min(capacity, request.document_tokens)
    jobs: list[EmbeddingJob] = []
    for index, tokens in enumerate(texts):
        document = tokens[len(head) :]
        if len(document) > allowed:
            if not request.truncate:
                count = len(tokens) + len(tail)
                return too_long(request.id, f"document {index} with the query", context, count, str(count))
            document = document[-allowed:] if request.keep_end else document[:allowed]
        pair = [*tokens[: len(head)], *document, *tail]
        jobs.append(EmbeddingJob(request.id, index, pair, None, caller=request.caller, ranks=True))
    return jobs


def _format_of(backend: Backend) -> RankFormat | None:
    context = backend.embedding_context
    return None if context is None else context.rank_format


def _min_tokens(backend: Backend, text: str) -> int:
    return len(text.encode()) // backend.max_token_bytes


def _with_query(part: str, query: str) -> PromptText:
    """A part of the template with the query in its place."""
    first, *others = part.split(_QUERY)
    text = PromptText(first)
    for other in others:
        text = text.append_literal(query).append_markup(other)
    return text
