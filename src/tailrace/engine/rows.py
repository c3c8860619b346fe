"""Questions to one row of logits, answered in about one pass over it: the best, the k best, all above a bound, the sum
of exponentials, what a mask leaves.

It owns the tricks that make this cheap at a vocabulary of 262k (times below are for that, on one core with AVX-512) and
knows nothing of requests or parameters. Rows are never changed.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]
#: Allowed tokens: bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]

#: A row is seen as a table of so many columns (token t stands in column t % 4096), and the maximum of each column says
#: which columns are worth a look. The maxima take 16 µs and the 40 best from them 12; ``argpartition`` of the row takes
#: 300, comparing all of it and ``flatnonzero`` 41.
_COLUMNS = 4096
#: With more columns than this to look at, reading the whole row is cheaper.
_MANY_COLUMNS = 1024
#: One over the temperature at most: with infinity the best token, at 0, would have no number.
_COLDEST = 1e30
_LOWEST = np.finfo(np.float32).min
#: For each byte of a mask eight limits: what is allowed is at most +inf, what isn't at most -inf. Looking them up and
#: taking the minimum takes 60 µs; ``where`` and ``copyto`` take 80 to 950, depending on the mask.
_LIMITS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), np.float32(np.inf), -np.inf
).astype(np.float32)


class _Scratch(threading.local):
    """Arrays as large as a row that are used again: fresh ones cost 30 µs each, for their pages."""

    def __init__(self) -> None:
        self._arrays: dict[str, Row] = {}

    def floats(self, use: str, size: int) -> Row:
        """This thread's array for ``use``, whose content lasts until it is asked for again."""
        array = self._arrays.get(use)
        if array is None or len(array) != size:
            array = self._arrays[use] = np.empty(size, np.float32)
        return array


_scratch = _Scratch()


class Scan:
    """One row with its column maxima, which is all that most questions read."""

    __slots__ = ("_columns", "_maxima", "best", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        size = len(row)
        # In a short row each token is a column of its own.
        self._columns = _COLUMNS if size >= 4 * _COLUMNS else size
        self._maxima = row
        if self._columns < size:
            whole = size - size % _COLUMNS
            self._maxima = np.maximum.reduce(row[:whole].reshape(-1, _COLUMNS), axis=0)
            rest = self._maxima[: size - whole]
            np.maximum(rest, row[whole:], out=rest)
        #: The greatest logit; NaN when one is anywhere in the row.
        self.best = float(np.maximum.reduce(self._maxima))

    def top(self, count: int) -> Ids:
        """The ``count`` (from 1) likeliest tokens, best first, of equals the lower id first. Fewer where the others are
        -inf.
        """
        if count >= len(self.row):
            bound = _LOWEST
        elif count > min(_MANY_COLUMNS, self._columns):
            bound = np.partition(self.row, -count)[-count]
        else:
            # ``count`` columns, hence as many tokens, reach this bound: it isn't above the least of the best.
            bound = np.partition(self._maxima, -count)[-count]
        ids = self.above(bound)
        return ids[(-self.row[ids]).argsort(kind="stable")[:count]]

    def above(self, bound: float | np.float32) -> Ids:
        """Tokens whose logit is at least ``bound`` and not -inf, in rising order."""
        bound = max(np.float32(bound), _LOWEST)
        columns: Ids = (self._maxima >= bound).nonzero()[0]
        row, size = self.row, len(self.row)
        if self._columns == size:
            return columns
        if len(columns) > _MANY_COLUMNS:
            return (row >= bound).nonzero()[0]
        # The rest of a vocabulary that isn't a multiple of 4096 is compared whole.
        whole = size - size % _COLUMNS
        near = row[:whole].reshape(-1, _COLUMNS).take(columns, axis=1)
        level, place = np.divmod((near >= bound).ravel().nonzero()[0], max(1, len(columns)))
        found: Ids = level * _COLUMNS + columns[place]
        if whole < size:
            found = np.concatenate((found, (row[whole:] >= bound).nonzero()[0] + whole))
        return found

    def weights(self, temperature: float = 1.0) -> Row:
        """Every token's probability at ``temperature`` over the best token's. Lasts until the next call."""
        weights = _scratch.floats("weights", len(self.row))
        with np.errstate(over="ignore"):  # A difference beyond float32 is -inf, and its exponential 0.
            np.subtract(self.row, np.float32(self.best), out=weights)
        if temperature != 1.0:
            np.multiply(weights, np.float32(min(1.0 / temperature, _COLDEST)), out=weights)
        return np.exp(weights, out=weights)


def total(weights: Row) -> float:
    """The sum, about as exact as float32's own precision (6e-8) whatever the length: ``sums`` of the sums."""
    return float(sums(weights).sum())


def sums(weights: Row) -> npt.NDArray[np.float64]:
    """Sums of consecutive blocks of ``BLOCK`` weights, the last one shorter."""
    whole = len(weights) - len(weights) % BLOCK
    blocks: Row = np.add.reduce(weights[:whole].reshape(-1, BLOCK), axis=1)  # pairwise, so float32 is enough
    if whole < len(weights):
        blocks = np.append(blocks, np.add.reduce(weights[whole:]))
    exact: npt.NDArray[np.float64] = blocks.astype(np.float64)
    return exact


#: Weights in a block of ``sums``.
BLOCK = 4096


def allows(mask: Mask, token: int) -> bool:
    """Whether ``mask`` allows ``token``."""
    return bool(int(mask[token >> 5]) >> (token & 31) & 1)


def allowed(mask: Mask, size: int) -> Ids:
    """The tokens below ``size`` that ``mask`` allows, in rising order."""
    words = np.flatnonzero(mask != 0)
    bits = np.unpackbits(mask[words].astype("<u4", copy=False).view(np.uint8), bitorder="little").reshape(-1, 32)
    places, bit = np.nonzero(bits)
    ids = words[places] * 32 + bit
    return ids[: np.searchsorted(ids, size)]


def masked(row: Row, mask: Mask) -> Row:
    """``row`` with -inf for every token that ``mask`` doesn't allow. Lasts until the next call."""
    limits = _scratch.floats("limits", 32 * len(mask))
    # mode="clip" spares a copy of the result; a byte is always within the table.
    np.take(_LIMITS, mask.view(np.uint8), axis=0, out=limits.reshape(-1, 8), mode="clip")
    return np.minimum(row, limits[: len(row)], out=_scratch.floats("masked", len(row)))
