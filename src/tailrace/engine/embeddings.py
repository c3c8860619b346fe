"""Texts that are computed and not continued: for their embedding, or for the log probabilities of their own tokens.

They have a context of their own (``EmbeddingContext``), so they don't touch the running sequences' KV cache. They are
computed in bounded passes between the loop's steps. This module checks requests, plans passes and turns their rows into
answers. It knows no sequence and no step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tailrace.engine.backends.base import Backend, EmbeddingContext, HiddenStates
from tailrace.engine.sampling.sampler import SamplingError, logprobs
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.errors import ModelError
from tailrace.protocol import Embed, Embedded, EmbeddingAnswer, Failed, Pooling, Refused, Score, Scored, TokenLogprobs

#: A row of logits is as wide as the vocabulary. More rows in a pass take memory and make nothing faster.
_MAX_SCORED_TOKENS = 64
#: How long a pass may take beside decoding sequences. Shorter passes cost more: each one reads all weights.
_MIXED_PASS_SECONDS = 0.05
#: How long a pass may take while no sequence runs. A request that arrives meanwhile waits for its end.
_SOLE_PASS_SECONDS = 0.25
#: Tokens of the first pass, before any was measured.
_FIRST_PASS_TOKENS = 16
#: Cells that the context gets at first; a longer text gets more.
_MIN_CELLS = 512


class EmbeddingJob:
    """One text and what is computed of it. ``pooling`` None: its tokens are scored."""

    __slots__ = ("computed", "id", "index", "logprobs", "pooled", "pooling", "slot", "tokens", "top")

    def __init__(self, identity: int, index: int, tokens: list[int], pooling: Pooling | None, top: int = 0) -> None:
        self.id = identity  #: the request's
        self.index = index  #: which of the request's inputs it is
        self.tokens = tokens
        self.pooling = pooling
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
        jobs.append(EmbeddingJob(request.id, index, tokens, pooling, top))
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


class EmbeddingQueue:
    """The jobs of one connection, in order of arrival."""

    def __init__(self, context: EmbeddingContext | None, max_pass_tokens: int) -> None:
        """``context`` None: the model has none, and no job is ever added."""
        self._context = context
        self._max_pass_tokens = max_pass_tokens
        self._token_seconds: float | None = None  #: seconds per token of the last pass
        self._next_pass = 0.0  #: when the next pass may begin beside decoding sequences
        self._waiting: deque[EmbeddingJob] = deque()
        self._active: list[EmbeddingJob] = []  #: those that have a slot

    def __bool__(self) -> bool:
        """Whether there is any job."""
        return bool(self._waiting or self._active)

    def add(self, jobs: list[EmbeddingJob]) -> None:
        """Queue the jobs of one request."""
        self._waiting += jobs

    def cancel(self, identity: int) -> None:
        """Drop the request's jobs, if there are any."""
        self._waiting = deque(job for job in self._waiting if job.id != identity)
        for job in [job for job in self._active if job.id == identity]:
            self._free_slot(job)

    def clear(self) -> None:
        """Drop all jobs."""
        self._waiting.clear()
        for job in list(self._active):
            self._free_slot(job)

    def step(self, *, beside: bool) -> Iterator[EmbeddingAnswer | Failed]:
        """One pass, and the answers that it completes. Raises BackendError.

        ``beside``: sequences wait for their next step. The pass is short then, and is followed by a pause as long as
        itself, so the sequences get at least half of the time.
        """
        context = self._context
        if context is None or not self or (beside and time.monotonic() < self._next_pass):
            return
        try:
            scheduled = self._schedule(context, self._budget(_MIXED_PASS_SECONDS if beside else _SOLE_PASS_SECONDS))
        except ModelError as error:
            job = self._waiting[0]
            self.cancel(job.id)
            yield Failed(job.id, str(error))
            return
        embeds = scheduled[0][0].pooling is not None
        rows = self._compute(context, scheduled, embeds=embeds)
        end = 0
        for job, count in scheduled:
            begin, end = end, end + count
            if job.slot < 0:
                continue  # Another input of its request has failed in this pass.
            answer = _pool(job, rows[begin:end]) if embeds else _score(job, rows[begin:end])
            if answer is None:
                continue
            self._free_slot(job)
            if isinstance(answer, Failed):
                self.cancel(job.id)
            yield answer

    def _budget(self, seconds: float) -> int:
        """Tokens of a pass that takes ``seconds``."""
        if self._token_seconds is None:
            return min(self._max_pass_tokens, _FIRST_PASS_TOKENS)
        return max(1, min(self._max_pass_tokens, int(seconds / self._token_seconds)))

    def _schedule(self, context: EmbeddingContext, budget: int) -> list[tuple[EmbeddingJob, int]]:
        """The pass's jobs with their tokens: first those in progress, then waiting ones that fit beside them.

        All of them are to embed, or all to score. Raises ModelError without the memory for the first job.
        """
        first = self._active[0] if self._active else self._waiting[0]
        embeds = first.pooling is not None
        budget = min(budget, context.max_pass_tokens if embeds else _MAX_SCORED_TOKENS)
        if not self._active and len(first.tokens) > context.cells:
            context.reserve(max(_MIN_CELLS, len(first.tokens)))
        if not context.causal:
            budget = max(budget, len(first.tokens))
        scheduled: list[tuple[EmbeddingJob, int]] = []
        for job in self._active:
            if budget > 0:
                scheduled.append((job, min(budget, job.pending)))
                budget -= scheduled[-1][1]
        free_cells = context.cells - sum(len(job.tokens) for job in self._active)
        free_slots = [slot for slot in range(context.slots) if all(job.slot != slot for job in self._active)]
        while self._waiting and free_slots and budget > 0:
            job = self._waiting[0]
            fits = len(job.tokens) <= free_cells and (context.causal or len(job.tokens) <= budget)
            if not fits or (job.pooling is not None) != embeds:
                break  # No job overtakes it: it is the first one when those in progress have ended.
            job.slot = free_slots.pop(0)
            self._waiting.popleft()
            self._active.append(job)
            scheduled.append((job, min(budget, job.pending)))
            budget -= scheduled[-1][1]
            free_cells -= len(job.tokens)
        return scheduled

    def _compute(
        self, context: EmbeddingContext, scheduled: list[tuple[EmbeddingJob, int]], *, embeds: bool
    ) -> HiddenStates:
        """The rows of all scheduled tokens, in order: hidden states if ``embeds``, else logits."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for job, count in scheduled:
            start = job.computed
            tokens += job.tokens[start : start + count]
            positions += range(start, start + count)
            slots += [job.slot] * count
        begun = time.monotonic()
        rows = (context.embed if embeds else context.score)(tokens, positions, slots)
        now = time.monotonic()
        self._next_pass = now + min(now - begun, _MIXED_PASS_SECONDS)
        self._token_seconds = (now - begun) / len(tokens)
        return rows

    def _free_slot(self, job: EmbeddingJob) -> None:
        assert self._context is not None
        self._active.remove(job)
        self._context.clear(job.slot)
        job.slot = -1


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
