"""The tokens that samplers have left so far: the whole vocabulary until one of them makes a list of it.

A sampler over the whole vocabulary is one pass in C (``logits_ops``). A list is in falling order, and one call of
``logits_ops.narrow`` applies many samplers to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops import Changes, Ids, LogitsRow, Mask, Numbers, Steps
from tailrace.engine.sampling.logits_ops.narrowing import (
    LEAST,
    MIN_P,
    MIROSTAT,
    MIROSTAT_SAMPLE,
    MIROSTAT_V2,
    STEP,
    TEMPERATURE,
    TOP_K,
    TOP_N_SIGMA,
    TOP_P,
    TYPICAL,
    XTC,
    dynamic,
    power_law,
)
from tailrace.engine.sampling.logits_ops.numpy_impl import allows
from tailrace.errors import TailraceError

Weights = npt.NDArray[np.floating]

#: Tokens that a part of the whole probability is looked for in first; eight times as many each time that they don't
#: hold it.
_FIRST_HEAD = 256
#: A list that is longer is dearer to sort than the vocabulary is to look at, so the other tokens are excluded from
#: that.
_LONG_LIST = 8192
#: Distances from the expected surprise up to which tokens are looked for in small steps.
_FAR = 64.0
#: Times that a border among many is narrowed down.
_HALVINGS = 20
_LOWEST = float(np.finfo(np.float32).min)


class Change(Protocol):
    """What changes logits of a row, and puts them back."""

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """Change ``row``, until ``undo``; ``scale``: what its logits will be divided by and the changes are not."""
        ...

    def undo(self, row: LogitsRow) -> None:
        """Put ``row`` back as it was before ``apply``."""
        ...


class SamplingError(TailraceError):
    """No token can be chosen: the model computed no finite logit, or a mask allows none. The sequence has to end."""


def check(best: float) -> None:
    """Raise SamplingError unless the greatest logit is a number."""
    if not -math.inf < best < math.inf:
        raise SamplingError(
            "no allowed token has a finite logit"
            if best == -math.inf
            else f"the model computed a logit that is not a number (the greatest is {best})"
        )


def head(row: LogitsRow, scan: logits_ops.LogitsView, wanted: float, temperature: float = 1.0) -> Ids:
    """The likeliest tokens, best first, enough of them to hold ``wanted`` of probability over the best one's."""
    count = _FIRST_HEAD
    while count < len(row):
        ids = scan.top(count)
        if np.exp((row[ids].astype(np.float64) - scan.best) / temperature).sum() >= wanted:
            return ids
        count *= 8
    return scan.top(len(row))


class Candidates:
    """What is left of ``row``, whose best token is ``scan.best``. ``size`` counts candidates of probability 0, too."""

    __slots__ = ("_bound", "_changes", "_mask", "ids", "logits", "row", "scan", "size", "temperature")

    def __init__(self, row: LogitsRow, mask: Mask | None, scan: logits_ops.LogitsView) -> None:
        self.row, self._mask, self.scan = row, mask, scan
        self.size = len(row) if mask is None else logits_ops.many_allowed(mask, len(row))
        #: What logits are to be divided by.
        self.temperature = 1.0
        #: The list, in falling order, and its logits; None: everything in the row from ``_bound`` on.
        self.ids: Ids | None = None
        self.logits: Numbers = np.empty(0)
        self._bound = -math.inf
        self._changes: list[Callable[[LogitsRow], None]] = []  #: what undoes them

    def undo(self) -> None:
        """Put the row back as it was."""
        for undo in reversed(self._changes):
            undo(self.row)
        self._changes.clear()

    def take(self, steps: Steps) -> None:
        """Apply samplers to the list."""
        assert self.ids is not None
        left = logits_ops.narrow(self.logits, self.size, self.temperature, steps)
        self.ids, self.logits = self.ids[left.begin : left.end], self.logits[left.begin : left.end]
        self.size, self.temperature = left.size, left.temperature

    def finish(self, steps: Steps) -> tuple[Ids | None, Weights]:
        """The same, and the tokens that are left (None: all) with their probabilities over the best one's."""
        self._settle()
        if self.ids is None:
            return self.scan.weights(self.temperature)
        left = logits_ops.narrow(self.logits, self.size, self.temperature, steps)
        return self.ids[left.begin : left.end], left.weights

    def everything(self) -> tuple[Ids, Weights]:
        """All tokens that are left, in rising order, and their probabilities over the best one's. It isn't a list."""
        ids = self.scan.above(self._bound)
        return ids, np.exp((self.row[ids].astype(np.float64) - self.scan.best) / self.temperature)

    def likeliest(self, count: int, always: Ids) -> tuple[Ids, Numbers, int]:
        """At most ``count`` tokens and those of ``always`` that are left, their parts of the whole probability, and how
        many candidates there are. They become the list, which ``keep`` or ``replace`` has to narrow down.
        """
        size = self.size
        self._settle()
        if self.ids is None:
            total = self.scan.entropy(self.temperature)[0]
            ids = self.scan.top(count)
            left = always if self._mask is None else always[[allows(self._mask, token) for token in always.tolist()]]
            left = left[self.row[left] > -np.inf]
            self._list(np.union1d(ids, left))
            weights = np.exp((self.logits - self.logits[0]) / self.temperature)
        else:
            weights = np.exp((self.logits - self.logits[0]) / self.temperature)
            total = float(weights.sum())
            if len(self.ids) > count:
                looked_at = np.isin(self.ids, always)
                looked_at[:count] = True
                self.ids, self.logits, weights = self.ids[looked_at], self.logits[looked_at], weights[looked_at]
        assert self.ids is not None
        return self.ids, weights / total, size

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Those of the list stay."""
        assert self.ids is not None
        self.ids, self.logits = self.ids[kept], self.logits[kept]
        self.size = len(self.ids)

    def replace(self, token: int) -> None:
        """Nothing is left but ``token``, whether it was there or not."""
        self.ids, self.logits, self.size = np.array([token]), np.ones(1), 1

    def leave(self, ids: Ids) -> None:
        """Nothing but these tokens, in rising order, is left of the vocabulary."""
        self._bound = -math.inf
        if len(ids) <= _LONG_LIST:
            self._list(ids)
            return
        excluded = self.row > -np.inf
        excluded[ids] = False
        if excluded.any():
            self.exclude(excluded.nonzero()[0])

    def _settle(self) -> None:
        """What ``_bound`` cuts off is left out."""
        if self.ids is None and self._bound > -math.inf:
            self.leave(self.scan.above(self._bound))

    def _list(self, ids: Ids) -> None:
        logits = self.row[ids].astype(np.float64)
        order = (-logits).argsort(kind="stable")
        self.ids, self.logits = ids[order], logits[order]

    def change(self, change: Change) -> None:
        """Change the logits of some of the candidates."""
        self._settle()
        if self.ids is None:
            change.apply(self.row, self.temperature)
            self._changes.append(change.undo)
            self._scan()
            return
        ids = np.sort(self.ids)
        everything = np.full(len(self.row), -np.inf, np.float32)
        with np.errstate(over="ignore"):
            everything[self.ids] = self.logits / self.temperature
        change.apply(everything)
        self.temperature = 1.0
        logits = everything[ids].astype(np.float64)
        order = (-logits).argsort(kind="stable")[: np.count_nonzero(logits > -np.inf)]
        self.ids, self.logits = ids[order], logits[order]
        check(float(self.logits.max(initial=-math.inf)))

    def exclude(self, ids: Ids) -> None:
        """These tokens are no candidates any more."""
        changes = Changes()
        changes.biased, changes.bias = ids, np.full(len(ids), -np.inf, np.float32)
        logits_ops.apply(self.row, changes)
        self._changes.append(lambda row: logits_ops.undo(row, changes))
        self._scan()

    def _scan(self) -> None:
        self.scan = logits_ops.scan(self.row, self._mask)
        check(self.scan.best)

    # Samplers over the whole vocabulary, with the arguments of their step

    def take_whole(self, kind: int, count: int, a: float, b: float, c: float) -> None:
        """Apply a sampler to what isn't a list yet."""
        if self._bound > -math.inf and kind != TOP_K and not (kind == TEMPERATURE and b <= 0.0):
            self._settle()
        if self.ids is not None:
            self.take(np.array([(kind, count, a, b, c)], STEP))
            return
        _WHOLE[kind](self, count, a, b, c)

    def _top_k(self, count: int, _a: float, _b: float, _c: float) -> None:
        if count <= 0:
            return
        if count > _LONG_LIST:
            self._top_many(count)
            return
        ids = self.scan.top(count)
        if self._bound > -math.inf:
            ids = ids[self.row[ids] >= self._bound]
            self._bound = -math.inf
        self.ids, self.logits = ids, self.row[ids].astype(np.float64)
        self.size = min(self.size, count)

    def _top_many(self, count: int) -> None:
        """The same without a list."""
        ids = self.scan.above(self._bound)
        if len(ids) > count:
            logits = self.row[ids]
            least = np.partition(logits, -count)[-count]
            kept = logits > least
            kept[(logits == least).nonzero()[0][: count - np.count_nonzero(kept)]] = True
            ids = ids[kept]
        self.size = min(self.size, count)
        self.leave(ids)

    def _top_p(self, count: int, p: float, _b: float, _c: float) -> None:
        temperature = self.temperature
        whole = self.scan.total() if temperature == 1.0 else self.scan.entropy(temperature)[0]
        ids = head(self.row, self.scan, p * whole, temperature)
        mass = np.exp((self.row[ids].astype(np.float64) - self.scan.best) / temperature).cumsum()
        first = int(mass.searchsorted(p * whole))
        if first < len(mass):
            self._top_k(max(first + 1, count), 0.0, 0.0, 0.0)

    def _min_p(self, count: int, distance: float, _b: float, _c: float) -> None:
        ids = self.scan.above(self.scan.best + self.temperature * distance)
        if len(ids) < count:
            self._top_k(count, 0.0, 0.0, 0.0)
            return
        self.size = len(ids)
        self.leave(ids)

    def _typical(self, count: int, p: float, _b: float, _c: float) -> None:
        best, temperature = self.scan.best, self.temperature
        total, entropy = self.scan.entropy(temperature)
        # Surprise is the logarithm of ``total`` less a token's distance from the best one.
        centre = math.log(total) - entropy
        reach = 1.0
        while True:
            bound = best + temperature * (centre - reach)
            ids = self.scan.above(bound)
            distances = (self.row[ids].astype(np.float64) - best) / temperature
            away = np.abs(distances - centre)
            near = away <= reach
            if np.exp(distances[near]).sum() > p * total and np.count_nonzero(near) >= count:
                ids, distances, away = ids[near], distances[near], away[near]
                break
            if bound < _LOWEST:
                break  # These are all.
            reach *= 2.0 if reach < _FAR else _FAR
        weights = np.exp(distances)
        # Nearly all may be near: those that are surely left needn't be sorted.
        low, high = -1.0, float(away.max(initial=0.0))
        for _ in range(_HALVINGS):
            if np.count_nonzero((away > low) & (away <= high)) <= _LONG_LIST:
                break
            middle = (low + high) / 2.0
            within = away <= middle
            if weights[within].sum() > p * total and np.count_nonzero(within) >= count:
                high = middle
            else:
                low = middle
        surely = away <= low
        undecided = ((away > low) & (away <= high)).nonzero()[0]
        undecided = undecided[np.lexsort((-distances[undecided], away[undecided]))]
        many = int(np.count_nonzero(surely))
        reached = np.flatnonzero(weights[surely].sum() + weights[undecided].cumsum() > p * total)
        kept = max(many + int(reached[0]) + 1, count) if len(reached) else self.size
        surely[undecided[: kept - many]] = True
        self.size = min(self.size, kept)
        self.leave(np.sort(ids[surely]))

    def _xtc(self, count: int, probability: float, threshold: float, chance: float) -> None:
        if chance > probability or self.size < 2:
            return
        total = self.scan.total() if self.temperature == 1.0 else self.scan.entropy(self.temperature)[0]
        least = math.log(threshold * total) if threshold > 0.0 else -math.inf
        ids = self.scan.above(self.scan.best + self.temperature * least)
        dropped = len(ids) - 1
        if dropped > 0 and self.size - dropped >= count:
            logits = self.row[ids]
            last = int((logits == logits.min()).nonzero()[0][-1])
            self.exclude(np.delete(ids, last))
            self.size -= dropped

    def _temperature(self, _count: int, temperature: float, spread: float, exponent: float) -> None:
        if spread > 0.0:
            if self.size < 2:
                return
            _, entropy = self.scan.entropy(self.temperature)
            temperature = dynamic(temperature, spread, exponent, entropy, self.size)
        if temperature > 0.0:
            self.temperature *= temperature
            return
        size = self.size
        self._top_k(1, 0.0, 0.0, 0.0)
        self.size = size

    def _top_n_sigma(self, _count: int, many: float, _b: float, _c: float) -> None:
        if self.size > 1:
            _, deviation = self.scan.spread()
            bound = self.scan.best - many * deviation
            if math.isfinite(bound):
                self._bound = min(bound, self.scan.best)

    def _mirostat(self, vocabulary: int, mu: float, _b: float, _c: float) -> None:
        total = self.scan.entropy(self.temperature)[0]
        ids = self.scan.top(min(MIROSTAT_SAMPLE, self.size))
        parts = np.zeros(min(MIROSTAT_SAMPLE, self.size))
        parts[: len(ids)] = np.exp((self.row[ids].astype(np.float64) - self.scan.best) / self.temperature) / total
        parts[parts < LEAST] = 0.0
        self._top_k(power_law(parts, mu, vocabulary), 0.0, 0.0, 0.0)

    def _mirostat_v2(self, _count: int, mu: float, _b: float, _c: float) -> None:
        least = math.log(self.scan.entropy(self.temperature)[0]) - mu * math.log(2.0)
        ids = self.scan.above(self.scan.best + self.temperature * least) if least <= 0.0 else self.scan.top(1)
        self.size = len(ids)
        self.leave(ids)


_WHOLE = {
    TOP_K: Candidates._top_k,
    TOP_P: Candidates._top_p,
    MIN_P: Candidates._min_p,
    TYPICAL: Candidates._typical,
    XTC: Candidates._xtc,
    TEMPERATURE: Candidates._temperature,
    TOP_N_SIGMA: Candidates._top_n_sigma,
    MIROSTAT: Candidates._mirostat,
    MIROSTAT_V2: Candidates._mirostat_v2,
}
