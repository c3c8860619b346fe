"""The candidates that samplers have left so far: the whole vocabulary, until a sampler makes a sorted list of it.

``full_row_samplers`` has the samplers over the whole vocabulary, ``LogitsOps.run_samplers`` those over a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import Float64Array, LogitsRow, Mask, Probabilities, TokenIds
from tailrace.engine.sampling.logits_ops.interface import LogitsView
from tailrace.engine.sampling.logits_ops.masks import count_allowed, is_allowed
from tailrace.engine.sampling.logits_ops.sampler_steps import Steps
from tailrace.errors import TailraceError

#: ``tokens_covering`` first takes so many tokens, and eight times as many each time that they aren't enough.
_FIRST_COUNT = 256


class LogitsProcessor(Protocol):
    """Changes logits of a row, and restores them: penalties, DRY."""

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """Change ``row``, until ``undo``. ``scale`` is the temperature that the row's logits are still to be divided
        by: penalties are multiplied with it, because they act after the temperature.
        """
        ...

    def undo(self, row: LogitsRow) -> None:
        """Restore ``row`` as it was before ``apply``."""
        ...


class SamplingError(TailraceError):
    """No token can be chosen: the model computed no finite logit, or a mask allows none. The sequence has to end."""


def check_max_logit(max_logit: float) -> None:
    """Raises SamplingError unless the greatest logit is finite."""
    if not -math.inf < max_logit < math.inf:
        raise SamplingError(
            "no allowed token has a finite logit"
            if max_logit == -math.inf
            else f"the model computed a logit that is not a number (the greatest is {max_logit})"
        )


def tokens_covering(row: LogitsRow, view: LogitsView, mass: float, temperature: float = 1.0) -> TokenIds:
    """The likeliest tokens, best first: enough that their relative probabilities at ``temperature`` add up to
    ``mass``, and more.
    """
    count = _FIRST_COUNT
    while count < len(row):
        ids = view.top_k(count)
        if np.exp((row[ids].astype(np.float64) - view.max_logit) / temperature).sum() >= mass:
            return ids
        count *= 8
    return view.top_k(len(row))


class Candidates:
    """The candidates left of ``row``. ``view`` must have a finite ``max_logit``."""

    __slots__ = ("_mask", "_undo", "logits", "min_logit", "n_candidates", "row", "temperature", "token_ids", "view")

    #: Sorting a longer list takes more time than passes over the vocabulary, so other tokens are excluded from the row.
    MAX_LIST: ClassVar[int] = 8192

    def __init__(self, row: LogitsRow, mask: Mask | None, view: LogitsView) -> None:
        self.row, self._mask, self.view = row, mask, view
        #: With candidates of probability 0.
        self.n_candidates = len(row) if mask is None else count_allowed(mask, len(row))
        #: What logits are to be divided by.
        self.temperature = 1.0
        #: The list, best first, and its logits. None: all tokens of the row whose logit is at least ``min_logit``.
        self.token_ids: TokenIds | None = None
        self.logits: Float64Array = np.empty(0)
        self.min_logit = -math.inf
        self._undo: list[Callable[[LogitsRow], None]] = []

    def restore_row(self) -> None:
        """Restore the row as it was before the first change."""
        for undo in reversed(self._undo):
            undo(self.row)
        self._undo.clear()

    def run_list_samplers(self, steps: Steps) -> None:
        """Apply samplers to the list."""
        assert self.token_ids is not None
        left = logits_ops.active().run_samplers(self.logits, self.n_candidates, self.temperature, steps)
        self.token_ids, self.logits = self.token_ids[left.begin : left.end], self.logits[left.begin : left.end]
        self.n_candidates, self.temperature = left.n_candidates, left.temperature

    def finish(self, steps: Steps) -> tuple[TokenIds | None, Probabilities]:
        """Apply the last samplers. The tokens that are left (None: all) and their relative probabilities."""
        self.apply_min_logit()
        if self.token_ids is None:
            return self.view.probabilities(self.temperature)
        left = logits_ops.active().run_samplers(self.logits, self.n_candidates, self.temperature, steps)
        return self.token_ids[left.begin : left.end], left.probs

    def all_tokens(self) -> tuple[TokenIds, Probabilities]:
        """The tokens that are left, in rising order, and their relative probabilities. There must be no list."""
        ids = self.view.tokens_above(self.min_logit)
        return ids, np.exp((self.row[ids].astype(np.float64) - self.view.max_logit) / self.temperature)

    def likeliest(self, count: int, always: TokenIds) -> tuple[TokenIds, Float64Array, int]:
        """At most ``count`` tokens and those of ``always`` that are left, their normalised probabilities, and the
        number of candidates. They become the list, which ``keep`` or ``replace`` must narrow down.
        """
        n_candidates = self.n_candidates
        self.apply_min_logit()
        if self.token_ids is None:
            total = self.view.sum_exp_and_entropy(self.temperature)[0]
            ids = self.view.top_k(count)
            mask = self._mask
            left = always if mask is None else always[[is_allowed(mask, token) for token in always.tolist()]]
            left = left[self.row[left] > -np.inf]
            self._make_list(np.union1d(ids, left))
            probs = np.exp((self.logits - self.logits[0]) / self.temperature)
        else:
            probs = np.exp((self.logits - self.logits[0]) / self.temperature)
            total = float(probs.sum())
            if len(self.token_ids) > count:
                selected = np.isin(self.token_ids, always)
                selected[:count] = True
                self.token_ids, self.logits, probs = self.token_ids[selected], self.logits[selected], probs[selected]
        assert self.token_ids is not None
        return self.token_ids, probs / total, n_candidates

    def keep(self, selected: npt.NDArray[np.bool_]) -> None:
        """Keep the entries of the list that are ``selected``."""
        assert self.token_ids is not None
        self.token_ids, self.logits = self.token_ids[selected], self.logits[selected]
        self.n_candidates = len(self.token_ids)

    def replace(self, token: int) -> None:
        """Leave nothing but ``token``, which may be new."""
        self.token_ids, self.logits, self.n_candidates = np.array([token]), np.ones(1), 1

    def make_top_k_list(self, k: int) -> None:
        """Make a list of the ``k`` likeliest candidates."""
        ids = self.view.top_k(k)
        if self.min_logit > -math.inf:
            ids = ids[self.row[ids] >= self.min_logit]
            self.min_logit = -math.inf
        self.token_ids, self.logits = ids, self.row[ids].astype(np.float64)
        self.n_candidates = min(self.n_candidates, k)

    def restrict_to(self, ids: TokenIds) -> None:
        """Leave nothing but these tokens, in rising order, of the vocabulary."""
        self.min_logit = -math.inf
        if len(ids) <= self.MAX_LIST:
            self._make_list(ids)
            return
        excluded = self.row > -np.inf
        excluded[ids] = False
        if excluded.any():
            self.exclude(excluded.nonzero()[0])

    def apply_min_logit(self) -> None:
        """Drop the tokens below ``min_logit`` from the vocabulary."""
        if self.token_ids is None and self.min_logit > -math.inf:
            self.restrict_to(self.view.tokens_above(self.min_logit))

    def _make_list(self, ids: TokenIds) -> None:
        logits = self.row[ids].astype(np.float64)
        order = (-logits).argsort(kind="stable")
        self.token_ids, self.logits = ids[order], logits[order]

    def process(self, processor: LogitsProcessor) -> None:
        """Let ``processor`` change the candidates' logits."""
        self.apply_min_logit()
        if self.token_ids is None:
            processor.apply(self.row, self.temperature)
            self._undo.append(processor.undo)
            self._renew_view()
            return
        ids = np.sort(self.token_ids)
        row = np.full(len(self.row), -np.inf, np.float32)
        with np.errstate(over="ignore"):
            row[self.token_ids] = self.logits / self.temperature
        processor.apply(row)
        self.temperature = 1.0
        logits = row[ids].astype(np.float64)
        order = (-logits).argsort(kind="stable")[: np.count_nonzero(logits > -np.inf)]
        self.token_ids, self.logits = ids[order], logits[order]
        check_max_logit(float(self.logits.max(initial=-math.inf)))

    def exclude(self, ids: TokenIds) -> None:
        """Drop these tokens: their logits become -inf until ``restore_row``."""
        adjustment = LogitAdjustment()
        adjustment.bias_tokens, adjustment.bias = ids, np.full(len(ids), -np.inf, np.float32)
        logits_ops.for_row(self.row).apply(self.row, adjustment)
        self._undo.append(lambda row: logits_ops.for_row(row).undo(row, adjustment))
        self._renew_view()

    def _renew_view(self) -> None:
        self.view = logits_ops.for_row(self.row).view(self.row, self._mask)
        check_max_logit(self.view.max_logit)
