"""Texts that are computed and not continued: for their embedding, for the log probabilities of their own tokens, or for
a reranker's score.

This module checks requests for embeddings and scores, makes their jobs, and turns the rows of all jobs into answers.
``ranking`` makes the jobs of rerankers. ``embedding_queue`` computes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from tailrace.engine.backends.base import Backend, HiddenStates
from tailrace.engine.sampling.sampler import SamplingError, logprobs
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.protocol import (
    Embed,
    Embedded,
    Failed,
    Pooling,
    Ranked,
    Refused,
    RefusedField,
    Score,
    Scored,
    TokenLogprobs,
)

#: What a pass computes. A pass has jobs of one kind.
JobKind = Literal["embed", "rank", "score"]


class EmbeddingJob:
    """One text and what is computed of it."""

    __slots__ = ("caller", "computed", "id", "index", "kind", "logprobs", "pooled", "pooling", "slot", "tokens", "top")

    def __init__(
        self,
        identity: int,
        index: int,
        tokens: list[int],
        pooling: Pooling | None,
        top: int = 0,
        caller: str = "",
        *,
        ranks: bool = False,
    ) -> None:
        """``pooling`` None: a reranker computes the text's score with ``ranks``; otherwise its tokens are scored."""
        self.kind: JobKind = "embed" if pooling is not None else "rank" if ranks else "score"
        self.id = identity  #: the request's
        self.index = index  #: which of the request's inputs it is
        self.tokens = tokens
        self.pooling = pooling
        self.caller = caller  #: whose request it is
        self.top = top  #: likeliest tokens that are reported beside each scored one
        self.computed = 0  #: tokens that passes have computed
        self.slot = -1  #: -1: not in progress
        self.pooled: HiddenStates | None = None  #: the sum of its rows so far, or the row that is its embedding
        self.logprobs: list[TokenLogprobs] = []

    @property
    def pending(self) -> int:
        """Tokens that aren't computed yet."""
        return len(self.tokens) - self.computed


def texts_to_tokenise(backend: Backend, request: Embed | Score) -> list[TokenizerInput] | Refused:
    """The texts whose tokens ``make_jobs`` needs, or why the request can't be answered."""
    texts: list[TokenizerInput] = []
    context = backend.info.context
    for index, given in enumerate(_inputs(request)):
        if isinstance(given, str):
            min_tokens = len(given.encode()) // backend.max_token_bytes
            if min_tokens > context:
                return too_long(request.id, _input_name(request, index), context, min_tokens, f"at least {min_tokens}")
            # Special tokens are literal text in an input to embed; a prompt is tokenised as for a generation.
            embed = isinstance(request, Embed)
            texts.append(TokenizerInput(given, parse_special=not embed, add_special=True if embed else None))
    return texts


def make_jobs(backend: Backend, request: Embed | Score, tokenised: Iterable[list[int]]) -> list[EmbeddingJob] | Refused:
    """The jobs that answer the request, or why it can't be answered. ``tokenised``: the tokens of its texts."""
    context = backend.embedding_context
    if context is None:
        return Refused(request.id, "unsupported", "this model gives no embeddings and no probabilities of a prompt")
    embed = isinstance(request, Embed)
    if embed and context.pooling is None:
        return Refused(request.id, "unsupported", "this model ranks documents and makes no embeddings")
    if not embed and not backend.info.generates:
        return Refused(request.id, "unsupported", f"this model {only_use(backend)}")
    pooling = (request.pooling or context.pooling) if isinstance(request, Embed) else None
    remaining = iter(tokenised)
    top = request.top if isinstance(request, Score) else 0
    max_tokens, size = backend.info.context, len(backend.vocabulary)
    jobs: list[EmbeddingJob] = []
    for index, given in enumerate(_inputs(request)):
        name = _input_name(request, index)
        tokens = next(remaining) if isinstance(given, str) else given
        if not tokens:
            return Refused(request.id, "invalid_prompt", f"{name} is empty")
        if not all(0 <= token < size for token in tokens):
            return Refused(request.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}")
        if len(tokens) > max_tokens:
            return too_long(request.id, name, max_tokens, len(tokens), str(len(tokens)))
        jobs.append(EmbeddingJob(request.id, index, tokens, pooling, top, request.caller))
    return jobs


def _inputs(request: Embed | Score) -> Sequence[str | list[int]]:
    return request.inputs if isinstance(request, Embed) else [request.prompt]


def _input_name(request: Embed | Score, index: int) -> str:
    """What error texts call an input."""
    if isinstance(request, Score):
        return "the prompt"
    return f"input {index}" if len(request.inputs) > 1 else "the input"


def only_use(backend: Backend) -> str:
    """What a model that writes no text does instead."""
    return "ranks documents and writes no text" if backend.info.rank_score else "makes embeddings and no text"


def too_long(
    identity: int, name: str, context: int, tokens: int, shown: str, field: RefusedField = "prompt"
) -> Refused:
    """The refusal of a text that doesn't fit. ``shown``: its tokens in words, where ``tokens`` is a lower bound."""
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but {name} has {shown} tokens. Shorten it.",
        tokens,
        context,
        field,
    )


def add_rows(job: EmbeddingJob, rows: HiddenStates, count: int) -> Embedded | Ranked | Scored | Failed | None:
    """Add the results of the job's next ``count`` tokens: a hidden state or logits of each, or a reranker's output for
    all tokens so far. The job's answer if they were the last ones.
    """
    if job.kind == "embed":
        return _pool(job, rows)
    return _rank(job, rows, count) if job.kind == "rank" else _score(job, rows)


def _pool(job: EmbeddingJob, rows: HiddenStates) -> Embedded | Failed | None:
    """Add the rows of the job's next tokens; its vector if they were the last ones."""
    job.computed += len(rows)
    if job.pooling == "mean":
        added = rows.sum(axis=0, dtype=np.float64)
        job.pooled = added if job.pooled is None else job.pooled + added
    elif job.pooling == "last" or job.pooled is None:
        job.pooled = rows[0 if job.pooling == "cls" else -1].astype(np.float64)
    if job.pending:
        return None
    length = float(np.linalg.norm(job.pooled))
    if not np.isfinite(length):
        return Failed(job.id, "the model computed a number that is none")
    vector = job.pooled / length if length else job.pooled
    return Embedded(job.id, job.index, len(job.tokens), vector.astype("<f4").tobytes())


def _rank(job: EmbeddingJob, rows: HiddenStates, count: int) -> Ranked | Failed | None:
    """The score, if the job's next ``count`` tokens were the last ones."""
    job.computed += count
    if job.pending:
        return None
    score = float(rows[0, 0])
    if not np.isfinite(score):
        return Failed(job.id, "the model computed a number that is none")
    return Ranked(job.id, job.index, len(job.tokens), score)


def _score(job: EmbeddingJob, rows: HiddenStates) -> Scored | Failed | None:
    """Add the logits of the job's next tokens: each row gives the log probability of the token after it."""
    following = job.tokens[job.computed + 1 : job.computed + 1 + len(rows)]
    job.computed += len(rows)
    try:
        job.logprobs += [logprobs(row, token, job.top) for row, token in zip(rows, following, strict=False)]
    except SamplingError as error:
        return Failed(job.id, str(error))
    return None if job.pending else Scored(job.id, job.tokens, job.logprobs)
