"""Passes on a worker whose calls return before they are computed: their time, and how many there may be.

llama.cpp sends a worker a pass and waits for its results alone. A part of a prompt has none, so its call takes the time
of sending. What it computes shows in the next pass with results. Whatever comes next waits for all that was sent. So a
long prompt has a pass with a result now and then.
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.engine.sequence import Sequence
from tailrace.engine.step import StepBatch

#: Seconds of unfinished passes after which one is waited for. Another request, or a cancel, waits for so long besides
#: a pass. A worker has nothing to do while the next pass is sent, so a shorter time costs more over a slow link.
_MAX_SECONDS = 0.25
#: Prompt tokens from which a token's time is learned.
_MANY_TOKENS = 16


class PromptTime(NamedTuple):
    """What prompt tokens took. ``tokens`` may be those of several passes."""

    tokens: int
    seconds: float


class UnfinishedPasses:
    """See the module. It sees every pass of one loop."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._sequences: list[Sequence] = []  #: of the last pass without results
        self._token_seconds: float | None = None  #: of a prompt without replies, as measured last
        self._is_awaited = False  #: whether the present pass has a result only to be waited for

    def outputs_of(self, batch: StepBatch) -> list[int]:
        """The tokens of ``batch`` whose logits the backend is asked for before ``finish`` is called. They are the
        batch's, or its last one's where too much would be unfinished.
        """
        token = self._token_seconds
        unfinished = self._tokens + prompt_tokens(batch)
        self._is_awaited = not batch.outputs and (token is None or unfinished * token > _MAX_SECONDS)
        return [len(batch.tokens) - 1] if self._is_awaited else batch.outputs

    def finish(self, batch: StepBatch, seconds: float) -> PromptTime | None:
        """The call for ``batch`` took ``seconds``. The time of its prompt tokens and of those that it had to wait for;
        None where that isn't known, or something else was waited for, too.
        """
        tokens = prompt_tokens(batch)
        if not (batch.outputs or self._is_awaited):
            self._tokens += tokens
            self._seconds += seconds
            self._sequences = [sequence for sequence, _ in batch.scheduled]
            return None
        before, self._sequences = self._sequences, []
        tokens += self._tokens
        seconds += self._seconds
        self._tokens, self._seconds = 0, 0.0
        # Of a prompt that was cancelled, nobody has waited for the end.
        goes_on = any(sequence is earlier for sequence, _ in batch.scheduled for earlier in before)
        if before and (batch.n_decoding or not goes_on):
            return None
        if tokens >= _MANY_TOKENS and not batch.n_decoding:
            self._token_seconds = seconds / tokens
        return PromptTime(tokens, seconds)


def prompt_tokens(batch: StepBatch) -> int:
    """Tokens that are no reply's."""
    return len(batch.tokens) - batch.n_decoding - batch.n_beyond_one
