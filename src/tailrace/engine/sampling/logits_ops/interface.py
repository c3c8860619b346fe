"""The passes over logits, each described once: ``numpy_impl`` and ``native`` implement them.

A new pass is a method here and one in each implementation. Callers need no more: see ``for_row`` and ``active``.
"""

from __future__ import annotations

from typing import Protocol

from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import (
    Float32Array,
    Float64Array,
    Int32Array,
    LogitsRow,
    Mask,
    Probabilities,
    TokenIds,
)
from tailrace.engine.sampling.logits_ops.sampler_steps import RemainingCandidates, Steps


class LogitsView(Protocol):
    """One row after a first pass, which remembers maxima: later questions read little of the row.

    With a mask, only allowed tokens exist. A view is valid until the thread makes the next one, and as long as the row
    is unchanged. Probabilities are relative (see ``Probabilities``).
    """

    @property
    def max_logit(self) -> float:
        """The greatest logit. It isn't finite if a logit is NaN or +inf, or if all are -inf."""
        ...

    def top_k(self, k: int) -> TokenIds:
        """The ``k`` (from 1) likeliest tokens, best first, of equals the lower id. Tokens with -inf are left out."""
        ...

    def tokens_above(self, bound: float) -> TokenIds:
        """The tokens whose logit is at least ``bound`` and not -inf, in rising order."""
        ...

    def filter(self, top_k: int, top_p: float, min_p: float, temperature: float) -> tuple[TokenIds, Float64Array]:
        """The tokens that top_k (from 1), then top_p, then min_p leave, best first, and their probabilities at
        ``temperature``.
        """
        ...

    def probabilities(self, temperature: float = 1.0) -> tuple[TokenIds | None, Float32Array]:
        """Tokens (None: the whole vocabulary in order) and their probabilities at ``temperature``. The arrays are valid
        as long as the view.
        """
        ...

    def sum_exp(self) -> float:
        """The sum of all probabilities at temperature 1, to about float32's precision."""
        ...

    def sum_exp_and_entropy(self, temperature: float = 1.0) -> tuple[float, float]:
        """The sum of all probabilities at ``temperature``, and the entropy in nats."""
        ...

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and standard deviation of the logits that aren't -inf. There must be one."""
        ...


class LogitsOps(Protocol):
    """All passes. Only ``apply`` and ``undo`` change a row."""

    def view(self, row: LogitsRow, mask: Mask | None = None) -> LogitsView:
        """A view of ``row``, or of what ``mask`` allows of it."""
        ...

    def argmax(self, row: LogitsRow, mask: Mask | None = None) -> int:
        """The allowed token with the greatest logit, of equals the lowest. A NaN comes before all. -1 if every allowed
        logit is -inf.
        """
        ...

    def argmax_of_rows(self, rows: LogitsRow) -> list[int] | None:
        """``argmax`` of each row of ``rows``, shape (rows, vocabulary); None if one of the maxima isn't finite."""
        ...

    def block_sums(self, probs: Float32Array) -> Float64Array:
        """The sum of each ``BLOCK`` consecutive numbers; the last block may be shorter."""
        ...

    def draw_index(self, probs: Probabilities, number: float) -> int:
        """The index at which ``number``, from [0, 1), falls among ``probs``. If rounding puts it beyond all: the last
        index that isn't 0.
        """
        ...

    def run_samplers(
        self, logits: Float64Array, n_candidates: int, temperature: float, steps: Steps
    ) -> RemainingCandidates:
        """Apply ``steps`` to a list of candidates.

        ``logits``, at least one, are finite and in falling order; they are to be divided by ``temperature``.
        ``n_candidates`` counts candidates of probability 0 as well. Raises ValueError for an unknown sampler.
        """
        ...

    def apply(self, row: LogitsRow, adjustment: LogitAdjustment) -> None:
        """Adjust ``row``. Raises IndexError for a token that isn't in the row; the row is then unchanged."""
        ...

    def undo(self, row: LogitsRow, adjustment: LogitAdjustment) -> None:
        """Restore ``row`` as it was before ``apply``."""
        ...

    def match_lengths(self, tokens: Int32Array, lengths: Int32Array) -> None:
        """Write ``lengths``: ``lengths[j]`` is how many tokens up to position j equal those up to the end of
        ``tokens``. The last entry means nothing.
        """
        ...

    def extend_match_lengths(self, tokens: Int32Array, lengths: Int32Array, n_tokens: int) -> None:
        """``tokens[n_tokens - 1]`` is new: bring ``lengths`` from ``n_tokens - 1`` tokens to ``n_tokens``."""
        ...

    def find_continuations(
        self,
        tokens: Int32Array,
        lengths: Int32Array,
        begin: int,
        end: int,
        max_length: int,
        min_length: int,
        slot_of: Int32Array,
        found: Int32Array,
        longest: Int32Array,
    ) -> int:
        """The distinct tokens between ``begin`` and ``end`` that follow a match of at least ``min_length`` tokens.

        They are written to ``found``, the lengths of their longest matches to ``longest``; returns their number. A
        match reaches back to ``begin`` at most and counts as ``max_length`` if it is longer. ``slot_of`` is scratch
        space: a 0 for each token of the vocabulary, before and after.
        """
        ...
