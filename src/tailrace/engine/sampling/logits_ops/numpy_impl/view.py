"""A view of one row that answers questions with little reading: see ``LogitsView``."""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Float32Array, Float64Array, LogitsRow, Mask, TokenIds
from tailrace.engine.sampling.logits_ops.formulas import MAX_INVERSE_TEMPERATURE, filtered_probs
from tailrace.engine.sampling.logits_ops.numpy_impl.draw import block_sums
from tailrace.engine.sampling.logits_ops.numpy_impl.masking import restrict, scratch

#: A row is seen as a table with so many columns (token t is in column t % 4096). A column's maximum says whether the
#: column is worth reading. The 40 best tokens of 262k take 28 µs this way; ``argpartition`` of the row takes 300.
_COLUMNS = 4096
#: If more columns than this have to be read, the whole row is read.
_MAX_COLUMNS = 1024
_LOWEST = np.finfo(np.float32).min


class NumpyView:
    """See ``LogitsView``."""

    __slots__ = ("_column_maxima", "_columns", "_ids", "_row", "max_logit")

    def __init__(self, row: LogitsRow, mask: Mask | None = None) -> None:
        #: The tokens at the positions of ``_row``; None: a position is its token.
        self._ids: TokenIds | None = None
        if mask is not None:
            row, self._ids = restrict(row, mask)
        self._row = row
        size = len(row)
        # In a short row each token is a column of its own.
        self._columns = _COLUMNS if size >= 4 * _COLUMNS else size
        self._column_maxima = row
        if self._columns < size:
            whole = size - size % _COLUMNS
            self._column_maxima = np.maximum.reduce(row[:whole].reshape(-1, _COLUMNS), axis=0)
            rest = self._column_maxima[: size - whole]
            np.maximum(rest, row[whole:], out=rest)
        self.max_logit = float(np.maximum.reduce(self._column_maxima, initial=-np.inf))

    def top_k(self, k: int) -> TokenIds:
        """See ``LogitsView``."""
        return self._tokens_at(self._top_k(k))

    def _top_k(self, k: int) -> TokenIds:
        row = self._row
        if k >= len(row):
            bound = _LOWEST
        elif k > min(_MAX_COLUMNS, self._columns):
            bound = np.partition(row, -k)[-k]
        else:
            # ``k`` columns, hence at least as many tokens, reach this bound.
            bound = np.partition(self._column_maxima, -k)[-k]
        positions = self._above(bound)
        return positions[(-row[positions]).argsort(kind="stable")[:k]]

    def tokens_above(self, bound: float) -> TokenIds:
        """See ``LogitsView``."""
        return self._tokens_at(self._above(bound))

    def filter(self, top_k: int, top_p: float, min_p: float, temperature: float) -> tuple[TokenIds, Float64Array]:
        """See ``LogitsView``."""
        positions = self._top_k(top_k)
        logits = self._row[positions]
        min_distance = math.log(min_p) if min_p > 0.0 else -math.inf
        probs = filtered_probs(logits, self.max_logit, top_p=top_p, min_distance=min_distance, temperature=temperature)
        return self._tokens_at(positions[: len(probs)]), probs

    def probabilities(self, temperature: float = 1.0) -> tuple[TokenIds | None, Float32Array]:
        """See ``LogitsView``."""
        row = self._row
        probs = scratch.floats("probabilities", len(row))
        with np.errstate(over="ignore"):  # A difference beyond float32 is -inf, and its exponential 0.
            np.subtract(row, np.float32(self.max_logit), out=probs)
            if temperature != 1.0:
                np.multiply(probs, np.float32(min(1.0 / temperature, MAX_INVERSE_TEMPERATURE)), out=probs)
        return self._ids, np.exp(probs, out=probs)

    def sum_exp(self) -> float:
        """See ``LogitsView``."""
        return float(block_sums(self.probabilities()[1]).sum())

    def sum_exp_and_entropy(self, temperature: float = 1.0) -> tuple[float, float]:
        """See ``LogitsView``."""
        factor = np.float32(min(1.0 / temperature, MAX_INVERSE_TEMPERATURE))
        with np.errstate(over="ignore"):
            # The probability is 0 from -150 on. Without the limit, 0 times -inf would be NaN.
            distances = np.maximum((self._row - np.float32(self.max_logit)) * factor, np.float32(-150.0))
        probs = np.exp(distances)
        total = float(block_sums(probs).sum())
        return total, math.log(total) - float(block_sums(probs * distances).sum()) / total

    def mean_and_deviation(self) -> tuple[float, float]:
        """See ``LogitsView``."""
        finite = self._row[self._row > -np.inf].astype(np.float64)
        return float(finite.mean()), float(finite.std())

    def _tokens_at(self, positions: TokenIds) -> TokenIds:
        return positions if self._ids is None else self._ids[positions]

    def _above(self, bound: float | np.float32) -> TokenIds:
        bound = np.float32(max(float(bound), float(_LOWEST)))
        columns: TokenIds = (self._column_maxima >= bound).nonzero()[0]
        row, size = self._row, len(self._row)
        if self._columns == size:
            return columns
        if len(columns) > _MAX_COLUMNS:
            return (row >= bound).nonzero()[0]
        # The last tokens of a vocabulary that isn't a multiple of 4096 are all compared.
        whole = size - size % _COLUMNS
        near = row[:whole].reshape(-1, _COLUMNS).take(columns, axis=1)
        table_row, column = np.divmod((near >= bound).ravel().nonzero()[0], max(1, len(columns)))
        found: TokenIds = table_row * _COLUMNS + columns[column]
        if whole < size:
            found = np.concatenate((found, (row[whole:] >= bound).nonzero()[0] + whole))
        return found
