"""Texts that are read and not continued, for their embedding or their tokens' probabilities.

They have a context of their own (``EmbeddingContext``), so they don't touch the running sequences' KV cache. They are
computed in bounded passes between the loop's steps. This module plans a pass and turns its rows into answers. It knows
no sequence and no step.
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
from tailrace.protocol import Embed, Embedded, Failed, Pooling, Reading, Refused, Score, Scored, TokenLogprobs

#: Logits are as wide as the vocabulary: more rows at once would cost memory without making anything faster.
_MOST_SCORED = 64
#: What a pass beside replies may take. Fewer tokens at once are dearer: the weights are read for each pass.
_BESIDE_SECONDS = 0.05
#: What a pass may take while nobody waits: whoever comes then waits for its end.
_ALONE_SECONDS = 0.25
#: Tokens of the first pass, when nothing is known.
_FIRST = 16
#: Tokens that the context has room for at first; more when a text is longer.
_FIRST_CELLS = 512


class EmbeddingJob:
    """One text in the making. ``pooling`` None: its tokens are scored."""

    __slots__ = ("computed", "id", "index", "logprobs", "pooled", "pooling", "slot", "tokens", "top")

    def __init__(self, identity: int, index: int, tokens: list[int], pooling: Pooling | None, top: int = 0) -> None:
        self.id = identity
        self.index = index  #: which of its request's inputs it is
        self.tokens = tokens
        self.pooling = pooling
        self.top = top
        self.computed = 0
        self.slot = -1
        self.pooled: HiddenStates | None = None  #: the sum of its rows so far, or the one that counts
        self.logprobs: list[TokenLogprobs] = []

    @property
    def pending(self) -> int:
        """Tokens that haven't been read."""
        return len(self.tokens) - self.computed


def texts_to_tokenise(backend: Backend, inquiry: Embed | Score) -> list[TokenizerInput] | Refused:
    """The texts whose tokens ``make_jobs`` needs, or why ``inquiry`` can't be answered."""
    texts: list[TokenizerInput] = []
    for index, given in enumerate(_inputs(inquiry)):
        if isinstance(given, str):
            least = len(given.encode()) // backend.max_token_bytes
            if least > backend.info.context:
                return _too_long(inquiry.id, _place(inquiry, index), backend.info.context, least, f"at least {least}")
            # Special tokens are text in an input to embed; a prompt is read as the generation reads it.
            embed = isinstance(inquiry, Embed)
            texts.append(TokenizerInput(given, parse_special=not embed, add_special=True if embed else None))
    return texts


def make_jobs(backend: Backend, inquiry: Embed | Score, tokenised: Iterable[list[int]]) -> list[EmbeddingJob] | Refused:
    """What has to be read to answer ``inquiry``, or why that can't be. ``tokenised``: the tokens of its texts."""
    context = backend.embedding_context
    if context is None:
        return Refused(inquiry.id, "unsupported", "this model gives no embeddings and no probabilities of a prompt")
    embed = isinstance(inquiry, Embed)
    if not embed and not backend.info.generates:
        return Refused(inquiry.id, "unsupported", "this model makes embeddings alone")
    pooling = (inquiry.pooling or context.pooling) if isinstance(inquiry, Embed) else None
    of_texts = iter(tokenised)
    top = inquiry.top if isinstance(inquiry, Score) else 0
    max_tokens, size = backend.info.context, len(backend.vocabulary)
    texts: list[EmbeddingJob] = []
    for index, given in enumerate(_inputs(inquiry)):
        where = _place(inquiry, index)
        tokens = next(of_texts) if isinstance(given, str) else given
        if not tokens:
            return Refused(inquiry.id, "invalid_prompt", f"{where} is empty")
        if not all(0 <= token < size for token in tokens):
            return Refused(inquiry.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}")
        if len(tokens) > max_tokens:
            return _too_long(inquiry.id, where, max_tokens, len(tokens), str(len(tokens)))
        texts.append(EmbeddingJob(inquiry.id, index, tokens, pooling, top))
    return texts


def _inputs(inquiry: Embed | Score) -> Sequence[str | list[int]]:
    return inquiry.inputs if isinstance(inquiry, Embed) else [inquiry.prompt]


def _place(inquiry: Embed | Score, index: int) -> str:
    """What errors call an input."""
    if isinstance(inquiry, Score):
        return "the prompt"
    return f"input {index}" if len(inquiry.inputs) > 1 else "the input"


def _too_long(identity: int, where: str, context: int, tokens: int, shown: str) -> Refused:
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but {where} has {shown} tokens. Shorten it.",
        tokens,
        context,
    )


class EmbeddingQueue:
    """The texts of one connection, first come first read."""

    def __init__(self, context: EmbeddingContext | None, chunk: int) -> None:
        """``chunk``: tokens of a pass at most."""
        self._context = context
        self._chunk = chunk
        self._token_seconds: float | None = None  #: what a token of a pass takes, as the passes so far have shown
        self._next = 0.0  #: when the next pass may begin beside replies
        self._waiting: deque[EmbeddingJob] = deque()
        self._active: list[EmbeddingJob] = []

    def __bool__(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._waiting or self._active)

    def add(self, texts: list[EmbeddingJob]) -> None:
        """Queue the texts of one inquiry."""
        self._waiting += texts

    def cancel(self, identity: int) -> None:
        """Forget the inquiry's texts, if there are any."""
        self._waiting = deque(text for text in self._waiting if text.id != identity)
        for text in [text for text in self._active if text.id == identity]:
            self._leave(text)

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        for text in list(self._active):
            self._leave(text)

    def step(self, *, beside: bool) -> Iterator[Reading | Failed]:
        """One pass, and the answers that it completes. ``beside`` replies that wait for their next step it is short,
        and as long as it was nothing is read then, so that they get at least half of the time.
        """
        context = self._context
        if context is None or not self or (beside and time.monotonic() < self._next):
            return
        try:
            chunks = self._plan(context, self._budget(_BESIDE_SECONDS if beside else _ALONE_SECONDS))
        except ModelError as error:
            text = self._waiting[0]
            self.cancel(text.id)
            yield Failed(text.id, str(error))
            return
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for text, count in chunks:
            start = text.computed
            tokens += text.tokens[start : start + count]
            positions += range(start, start + count)
            slots += [text.slot] * count
        embeds = chunks[0][0].pooling is not None
        begun = time.monotonic()
        rows = (context.embed if embeds else context.score)(tokens, positions, slots)
        now = time.monotonic()
        self._next = now + min(now - begun, _BESIDE_SECONDS)
        self._token_seconds = (now - begun) / len(tokens)
        end = 0
        for text, count in chunks:
            begin, end = end, end + count
            if text.slot < 0:
                continue  # Another input of its inquiry has failed in this pass.
            answer = _pool(text, rows[begin:end]) if embeds else _score(text, rows[begin:end])
            if answer is None:
                continue
            self._leave(text)
            if isinstance(answer, Failed):
                self.cancel(text.id)
            yield answer

    def _budget(self, seconds: float) -> int:
        """Tokens of a pass that may take so long."""
        if self._token_seconds is None:
            return min(self._chunk, _FIRST)
        return max(1, min(self._chunk, int(seconds / self._token_seconds)))

    def _plan(self, context: EmbeddingContext, budget: int) -> list[tuple[EmbeddingJob, int]]:
        """Which tokens the pass reads: those of texts that have begun, then of others that fit beside them."""
        first = self._active[0] if self._active else self._waiting[0]
        embeds = first.pooling is not None
        room = min(budget, context.max_pass_tokens if embeds else _MOST_SCORED)
        if not self._active and len(first.tokens) > context.cells:
            context.reserve(max(_FIRST_CELLS, len(first.tokens)))
        if not context.causal:
            room = max(room, len(first.tokens))
        chunks: list[tuple[EmbeddingJob, int]] = []
        for text in self._active:
            if room > 0:
                chunks.append((text, min(room, text.pending)))
                room -= chunks[-1][1]
        cells = context.cells - sum(len(text.tokens) for text in self._active)
        free = [slot for slot in range(context.slots) if all(text.slot != slot for text in self._active)]
        while self._waiting and free and room > 0:
            text = self._waiting[0]
            fits = len(text.tokens) <= cells and (context.causal or len(text.tokens) <= room)
            if not fits or (text.pooling is not None) != embeds:
                break  # Nobody overtakes it: what is in progress ends, and then it is the first.
            text.slot = free.pop(0)
            self._waiting.popleft()
            self._active.append(text)
            chunks.append((text, min(room, text.pending)))
            room -= chunks[-1][1]
            cells -= len(text.tokens)
        return chunks

    def _leave(self, text: EmbeddingJob) -> None:
        assert self._context is not None
        self._active.remove(text)
        self._context.clear(text.slot)
        text.slot = -1


def _pool(text: EmbeddingJob, rows: HiddenStates) -> Embedded | Failed | None:
    """Take the text's next rows; its vector when they were the last."""
    text.computed += len(rows)
    if text.pooling == "mean":
        added = rows.sum(axis=0, dtype=np.float64)
        text.pooled = added if text.pooled is None else text.pooled + added
    elif text.pooling == "last" or text.pooled is None:
        text.pooled = rows[0 if text.pooling == "cls" else -1].astype(np.float64)
    if text.pending:
        return None
    length = float(np.linalg.norm(text.pooled))
    if not np.isfinite(length):
        return Failed(text.id, "the model computed a number that is none")
    vector = text.pooled / length if length else text.pooled
    return Embedded(text.id, text.index, len(text.tokens), vector.astype("<f4").tobytes())


def _score(text: EmbeddingJob, rows: HiddenStates) -> Scored | Failed | None:
    """Take the logits of the text's next tokens, each of which says how likely the one after it was."""
    following = text.tokens[text.computed + 1 : text.computed + 1 + len(rows)]
    text.computed += len(rows)
    try:
        text.logprobs += [logprobs(row, token, text.top) for row, token in zip(rows, following, strict=False)]
    except SamplingError as error:
        return Failed(text.id, str(error))
    return None if text.pending else Scored(text.id, text.tokens, text.logprobs)
