"""The questions to rows of logits in NumPy: for short rows, and where there is no C (see ``native``).

It owns the tricks that make this cheap at a vocabulary of 262k (times below are for that, on one core with AVX-512).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

LogitsRow = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.float64]
#: Allowed tokens: bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]

#: A row is seen as a table of so many columns (token t stands in column t % 4096), and the maximum of each column says
#: which columns are worth a look. The maxima take 16 µs and the 40 best from them 12; ``argpartition`` of the row takes
#: 300, comparing all of it and ``flatnonzero`` 41.
_COLUMNS = 4096
#: With more columns than this to look at, reading the whole row is cheaper.
_MANY_COLUMNS = 1024
#: One over the temperature at most: with infinity the best token, at 0, would have no number.
COLDEST = 1e30
_LOWEST = np.finfo(np.float32).min
#: A mask with no more words than this that allow anything is read token by token.
_FEW_WORDS = 512
#: For each byte of a mask eight limits: what is allowed is at most +inf, what isn't at most -inf. Looking them up and
#: taking the minimum takes 60 µs; ``where`` and ``copyto`` take 80 to 950, depending on the mask.
_LIMITS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), np.float32(np.inf), -np.inf
).astype(np.float32)


class _Scratch(threading.local):
    """Arrays as large as a row that are used again: fresh ones cost 30 µs each, for their pages."""

    def __init__(self) -> None:
        self._arrays: dict[str, LogitsRow] = {}

    def floats(self, use: str, size: int) -> LogitsRow:
        """This thread's array for ``use``, whose content lasts until it is asked for again."""
        array = self._arrays.get(use)
        if array is None or len(array) != size:
            array = self._arrays[use] = np.empty(size, np.float32)
        return array


_scratch = _Scratch()


class LogitsView:
    """One row with its column maxima, which is all that most questions read. Lasts until the next one is made.

    With a mask, only what it allows is there: the rest may be anything. Tokens are always the whole vocabulary's.
    """

    __slots__ = ("_columns", "_ids", "_maxima", "_row", "best")

    def __init__(self, row: LogitsRow, mask: Mask | None = None) -> None:
        #: What the places of ``_row`` stand for; None: for themselves.
        self._ids: Ids | None = None
        if mask is not None:
            row, self._ids = _restrict(row, mask)
        self._row = row
        size = len(row)
        # In a short row each token is a column of its own.
        self._columns = _COLUMNS if size >= 4 * _COLUMNS else size
        self._maxima = row
        if self._columns < size:
            whole = size - size % _COLUMNS
            self._maxima = np.maximum.reduce(row[:whole].reshape(-1, _COLUMNS), axis=0)
            rest = self._maxima[: size - whole]
            np.maximum(rest, row[whole:], out=rest)
        #: The greatest logit; not finite when one is NaN, +inf, or all are -inf.
        self.best = float(np.maximum.reduce(self._maxima, initial=-np.inf))

    def top(self, count: int) -> Ids:
        """The ``count`` (from 1) likeliest tokens, best first, of equals the lower id first. Fewer where the others are
        -inf.
        """
        return self._tokens(self._top(count))

    def _top(self, count: int) -> Ids:
        row = self._row
        if count >= len(row):
            bound = _LOWEST
        elif count > min(_MANY_COLUMNS, self._columns):
            bound = np.partition(row, -count)[-count]
        else:
            # ``count`` columns, hence as many tokens, reach this bound: it isn't above the least of the best.
            bound = np.partition(self._maxima, -count)[-count]
        places = self._above(bound)
        return places[(-row[places]).argsort(kind="stable")[:count]]

    def above(self, bound: float) -> Ids:
        """Tokens whose logit is at least ``bound`` and not -inf, in rising order."""
        return self._tokens(self._above(bound))

    def filtered(self, top_k: int, top_p: float, min_p: float, temperature: float) -> tuple[Ids, Numbers]:
        """The tokens that top_k (from 1), of these top_p and of these min_p leave, best first, and their probabilities
        at ``temperature`` over the best one's.
        """
        places = self._top(top_k)
        logits = self._row[places]
        distance = math.log(min_p) if min_p > 0.0 else -math.inf
        weights = narrowed(logits, self.best, top_p=top_p, distance=distance, temperature=temperature)
        return self._tokens(places[: len(weights)]), weights

    def weights(self, temperature: float = 1.0) -> tuple[Ids | None, LogitsRow]:
        """Tokens (None: all in order), and their probabilities at ``temperature`` over the best one's."""
        row = self._row
        weights = _scratch.floats("weights", len(row))
        with np.errstate(over="ignore"):  # A difference beyond float32 is -inf, and its exponential 0.
            np.subtract(row, np.float32(self.best), out=weights)
            if temperature != 1.0:
                np.multiply(weights, np.float32(min(1.0 / temperature, COLDEST)), out=weights)
        return self._ids, np.exp(weights, out=weights)

    def total(self) -> float:
        """The sum of all probabilities over the best one's, about as exact as float32's own precision (6e-8)."""
        return float(sums(self.weights()[1]).sum())

    def entropy(self, temperature: float = 1.0) -> tuple[float, float]:
        """The sum of all probabilities at ``temperature`` over the best one's, and the entropy, in nats."""
        factor = np.float32(min(1.0 / temperature, COLDEST))
        with np.errstate(over="ignore"):
            # From there on the probability is 0, and its product with -inf would be none.
            distances = np.maximum((self._row - np.float32(self.best)) * factor, np.float32(-150.0))
        weights = np.exp(distances)
        total = float(sums(weights).sum())
        return total, math.log(total) - float(sums(weights * distances).sum()) / total

    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation of the logits that aren't -inf; there has to be one."""
        finite = self._row[self._row > -np.inf].astype(np.float64)
        return float(finite.mean()), float(finite.std())

    def _tokens(self, places: Ids) -> Ids:
        return places if self._ids is None else self._ids[places]

    def _above(self, bound: float | np.float32) -> Ids:
        bound = np.float32(max(float(bound), float(_LOWEST)))
        columns: Ids = (self._maxima >= bound).nonzero()[0]
        row, size = self._row, len(self._row)
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


def narrowed(
    logits: LogitsRow,
    best: float,
    *,
    temperature: float,
    top_p: float,
    whole: float | None = None,
    distance: float = -math.inf,
) -> Numbers:
    """Of tokens' logits in falling order so many probabilities, at ``temperature`` over the best one's, as hold
    ``top_p`` of ``whole`` (None: of all of theirs) and are at most ``-distance`` from ``best``.
    """
    values = logits.astype(np.float64)
    values -= best
    if top_p < 1.0:
        mass = np.exp(values).cumsum()
        values = values[: int(mass.searchsorted(top_p * (mass[-1] if whole is None else whole))) + 1]
    if distance > -math.inf:
        values = values[: np.count_nonzero(values >= distance)]
    with np.errstate(over="ignore"):
        weights: Numbers = values / temperature
    return np.exp(weights, out=weights)


def place(weights: npt.NDArray[np.floating], number: float) -> int:
    """Where ``number``, from [0, 1), falls among ``weights``."""
    cumulative = weights.cumsum(dtype=np.float64)
    return first_above(cumulative, number * cumulative[-1])


def first_above(cumulative: Numbers, target: float) -> int:
    """The first entry above ``target``; where rounding has put it beyond all, the last that adds anything."""
    place = int(cumulative.searchsorted(target, side="right"))
    return place if place < len(cumulative) else int(cumulative.searchsorted(cumulative[-1]))


def best(row: LogitsRow, mask: Mask | None = None) -> int:
    """The likeliest token that ``mask`` allows, of equals the lowest, before all one that is NaN; -1 where every one is
    -inf.
    """
    token = int(row.argmax())
    if mask is not None and not (math.isfinite(row[token]) and allows(mask, token)):
        row, ids = _restrict(row, mask)
        if not len(row):
            return -1
        token = int(row.argmax())
        return -1 if row[token] == -np.inf else token if ids is None else int(ids[token])
    return -1 if row[token] == -np.inf else token


def best_of_each(rows: LogitsRow) -> list[int] | None:
    """``best`` of each row of ``rows``; None when one isn't finite."""
    tokens: Ids = rows.argmax(axis=1)
    # argmax finds a NaN before anything else.
    if not np.isfinite(rows[np.arange(len(tokens)), tokens]).all():
        return None
    chosen: list[int] = tokens.tolist()
    return chosen


def sums(weights: LogitsRow) -> Numbers:
    """Sums of consecutive blocks of ``BLOCK`` weights, the last one shorter."""
    whole = len(weights) - len(weights) % BLOCK
    blocks: LogitsRow = np.add.reduce(weights[:whole].reshape(-1, BLOCK), axis=1)  # pairwise, so float32 is enough
    if whole < len(weights):
        blocks = np.append(blocks, np.add.reduce(weights[whole:]))
    exact: Numbers = blocks.astype(np.float64)
    return exact


#: Weights in a block of ``sums``.
BLOCK = 4096


def all_but(tokens: Iterable[int], size: int) -> Mask:
    """The mask of a vocabulary of so many tokens that allows all but these."""
    mask: Mask = np.full((size + 31) // 32, 0xFFFFFFFF, np.uint32)
    if size % 32:
        mask[-1] = (1 << size % 32) - 1
    for token in tokens:
        mask[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
    return mask


def allows(mask: Mask, token: int) -> bool:
    """Whether ``mask`` allows ``token``."""
    return bool(int(mask[token >> 5]) >> (token & 31) & 1)


def many_allowed(mask: Mask, size: int) -> int:
    """How many of the tokens below ``size`` ``mask`` allows."""
    whole = size >> 5
    rest = int(mask[whole]) & ((1 << (size & 31)) - 1) if size & 31 else 0
    return int(np.count_nonzero(np.unpackbits(mask[:whole].view(np.uint8)))) + rest.bit_count()


def allowed(mask: Mask, size: int) -> Ids:
    """The tokens below ``size`` that ``mask`` allows, in rising order."""
    words = np.flatnonzero(mask != 0)
    bits = np.unpackbits(mask[words].astype("<u4", copy=False).view(np.uint8), bitorder="little").reshape(-1, 32)
    places, bit = np.nonzero(bits)
    ids = words[places] * 32 + bit
    return ids[: np.searchsorted(ids, size)]


def _restrict(row: LogitsRow, mask: Mask) -> tuple[LogitsRow, Ids | None]:
    """A row of what ``mask`` allows, and the tokens it stands for (None: all, the forbidden ones being -inf)."""
    if np.count_nonzero(mask) <= _FEW_WORDS:
        ids = allowed(mask, len(row))
        return row[ids], ids
    return masked(row, mask), None


def masked(row: LogitsRow, mask: Mask) -> LogitsRow:
    """``row`` with -inf for every token that ``mask`` doesn't allow, and +inf for NaN that it does. Lasts until the
    next call.
    """
    limits = _scratch.floats("limits", 32 * len(mask))
    # mode="clip" spares a copy of the result; a byte is always within the table.
    np.take(_LIMITS, mask.view(np.uint8), axis=0, out=limits.reshape(-1, 8), mode="clip")
    return np.fmin(row, limits[: len(row)], out=_scratch.floats("masked", len(row)))
