"""The time of passes on a worker whose calls return before they are computed.

llama.cpp sends a worker a pass and waits for its results alone. A part of a prompt has none, so its call takes the time
of sending. What it computes shows in the next pass with results.
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.engine.sequence import Sequence
from tailrace.engine.step import StepBatch


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

    def finish(self, batch: StepBatch, seconds: float) -> PromptTime | None:
        """The call for ``batch`` took ``seconds``. The time of its prompt tokens and of those that it had to wait for;
        None where that isn't known, or something else was waited for, too.
        """
        tokens = prompt_tokens(batch)
        if not batch.outputs:
            self._tokens += tokens
            self._seconds += seconds
            self._sequences = [sequence for sequence, _ in batch.scheduled]
            return None
        before, self._sequences = self._sequences, []
        tokens += self._tokens
        seconds += self._seconds
        self._tokens, self._seconds = 0, 0.0
        if not before:
            return PromptTime(tokens, seconds)
        # Of a prompt that was cancelled, nobody has waited for the end.
        goes_on = any(sequence is earlier for sequence, _ in batch.scheduled for earlier in before)
        return PromptTime(tokens, seconds) if goes_on and not batch.n_decoding else None


def prompt_tokens(batch: StepBatch) -> int:
    """Tokens that are no reply's."""
    return len(batch.tokens) - batch.n_decoding - batch.n_beyond_one
