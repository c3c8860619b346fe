"""Texts that are computed and not continued: for their embedding, or for the log probabilities of their own tokens.

This module checks requests, makes their jobs, and turns the jobs' rows into answers. ``embedding_queue`` computes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tailrace.engine.backends.base import Backend, HiddenStates
from tailrace.engine.sampling.sampler import SamplingError, logprobs
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.protocol import Embed, Embedded, Failed, Pooling, Refused, Score, Scored, TokenLogprobs


class EmbeddingJob:
    """One text and what is computed of it. ``pooling`` None: its tokens are scored."""

    __slots__ = ("caller", "computed", "id", "index", "logprobs", "pooled", "pooling", "slot", "tokens", "top")

    def __init__(
        self,
        identity: int,
        index: int,
        tokens: list[int],
        pooling: Pooling | None,
        top: int = 0,
        caller: str = "",
    ) -> None:
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
    def embeds(self) -> bool:
        """Whether it is to embed, and not to score."""
        return self.pooling is not None

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
                return _too_long(request.id, _input_name(request, index), context, min_tokens, f"at least {min_tokens}")
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
    if not embed and not backend.info.generates:
        return Refused(request.id, "unsupported", "this model makes embeddings alone")
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
            return _too_long(request.id, name, max_tokens, len(tokens), str(len(tokens)))
        jobs.append(EmbeddingJob(request.id, index, tokens, pooling, top, request.caller))
    return jobs


def _inputs(request: Embed | Score) -> Sequence[str | list[int]]:
    return request.inputs if isinstance(request, Embed) else [request.prompt]


def _input_name(request: Embed | Score, index: int) -> str:
    """What error texts call an input."""
    if isinstance(request, Score):
        return "the prompt"
    return f"input {index}" if len(request.inputs) > 1 else "the input"


def _too_long(identity: int, name: str, context: int, tokens: int, shown: str) -> Refused:
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but {name} has {shown} tokens. Shorten it.",
        tokens,
        context,
    )


def add_rows(job: EmbeddingJob, rows: HiddenStates) -> Embedded | Scored | Failed | None:
    """Add the rows of the job's next tokens: hidden states, or logits. Its answer if they were the last ones."""
    return _pool(job, rows) if job.embeds else _score(job, rows)


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


def _score(job: EmbeddingJob, rows: HiddenStates) -> Scored | Failed | None:
    """Add the logits of the job's next tokens: each row gives the log probability of the token after it."""
    following = job.tokens[job.computed + 1 : job.computed + 1 + len(rows)]
    job.computed += len(rows)
    try:
        job.logprobs += [logprobs(row, token, job.top) for row, token in zip(rows, following, strict=False)]
    except SamplingError as error:
        return Failed(job.id, str(error))
    return None if job.pending else Scored(job.id, job.tokens, job.logprobs)
