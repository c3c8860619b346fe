"""How the next token is chosen from a row of logits.

The filters, their order and their meaning are llama.cpp's (bias and penalties, top_k, top_p, min_p, temperature, draw),
except that frequency and presence penalties count the whole reply and not the prompt, as OpenAI defines them. What is
forbidden by a mask (structured output) is as if the vocabulary didn't have it. ``rows`` has the passes over a row,
``penalties`` the history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt

from tailrace.engine import rows
from tailrace.engine.penalties import Penalties, undo
from tailrace.engine.rows import Ids, Mask, Row, Scan
from tailrace.errors import TailraceError
from tailrace.messages import Sampling, TokenLogprobs

Weights = npt.NDArray[np.floating]

#: A mask with no more words than this that allow anything is read token by token.
_FEW_WORDS = 512
#: Tokens that top_p alone is tried with first; eight times as many each time that they don't have the mass.
_FIRST_HEAD = 256


class SamplingError(TailraceError):
    """No token can be chosen: the model computed no finite logit, or a mask allows none. The sequence has to end."""


class Sampler:
    """Chooses one sequence's tokens. ``prompt`` is what the repeat penalty looks back on before the first token."""

    __slots__ = ("_params", "_penalties", "_random", "greedy")

    def __init__(self, params: Sampling, prompt: Seq[int]) -> None:
        self._params = params
        self._penalties = Penalties(params, prompt)
        self._random: np.random.Generator | None = None
        if params.temperature > 0.0:
            self._random = np.random.default_rng(params.seed)
        #: Without a mask the plain argmax is this sampler's choice: see ``greedy_tokens``.
        self.greedy = self._random is None and not self._penalties

    def sample(self, logits: Row, mask: Mask | None = None) -> int:
        """The next token, which becomes part of the history. ``logits`` is the vocabulary's row and left as it was.

        With ``mask``, uint32 of shape (ceil(vocabulary / 32),), only tokens whose bit (t % 32 of word t // 32) is set
        can be chosen. Raises SamplingError.
        """
        changed = self._penalties.apply(logits)
        try:
            token = self._choose(logits, mask)
        finally:
            undo(logits, changed)
        self._penalties.accept(token)
        return token

    def accept(self, token: int) -> None:
        """A token that was not for this sampler to choose becomes part of the history."""
        self._penalties.accept(token)

    def distribution(self, logits: Row, mask: Mask | None = None) -> tuple[Ids, npt.NDArray[np.float64]]:
        """The tokens that ``sample`` draws from, and their probabilities. Nothing changes. Raises SamplingError."""
        changed = self._penalties.apply(logits)
        try:
            ids, weights = self._weigh(logits, mask)
        finally:
            undo(logits, changed)
        found = np.arange(len(weights)) if ids is None else ids
        return found, weights / weights.sum(dtype=np.float64)

    def _choose(self, logits: Row, mask: Mask | None) -> int:
        if self._random is not None:
            ids, weights = self._weigh(logits, mask)
            place = _draw(weights, self._random.random())
            return place if ids is None else int(ids[place])
        token = int(logits.argmax())
        if mask is not None and math.isfinite(logits[token]) and not rows.allows(mask, token):
            row, ids = _restrict(logits, mask)
            token = int(row.argmax()) if len(row) else -1
            best = row[token] if len(row) else -math.inf
            _check(float(best))
            return token if ids is None else int(ids[token])
        _check(float(logits[token]))
        return token

    def _weigh(self, logits: Row, mask: Mask | None) -> tuple[Ids | None, Weights]:
        """The tokens that can be drawn (None: all) and their probabilities over the likeliest one's."""
        if self._random is None:
            return np.array([self._choose(logits, mask)]), np.ones(1)
        row, ids = (logits, None) if mask is None else _restrict(logits, mask)
        if not len(row):
            _check(-math.inf)
        places, weights = self._filter(Scan(row))
        return places if ids is None else ids if places is None else ids[places], weights

    def _filter(self, scan: Scan) -> tuple[Ids | None, Weights]:
        """The same in places of ``scan.row``.

        Each filter keeps a beginning of the tokens in falling order, so all of them together keep the shortest one.
        """
        params = self._params
        row, best = scan.row, scan.best
        _check(best)
        least = best + math.log(params.min_p) if params.min_p > 0.0 else -math.inf
        limited = 0 < params.top_k < len(row)
        if limited:
            ids = scan.top(params.top_k)
        elif params.min_p > 0.0:
            ids = scan.above(least)
            if params.top_p < 1.0:
                ids = ids[np.argsort(-row[ids], kind="stable")]
        elif params.top_p < 1.0:
            ids = self._head(scan)
        else:
            return None, scan.weights(params.temperature)
        values = row[ids].astype(np.float64)
        values -= best
        if params.top_p < 1.0:
            mass = np.exp(values).cumsum()
            # What top_p is a part of: all that top_k has left.
            whole = mass[-1] if limited else rows.total(scan.weights())
            values = values[: int(mass.searchsorted(params.top_p * whole)) + 1]
        if limited and params.min_p > 0.0:
            values = values[: np.count_nonzero(values >= least - best)]
        kept = len(values)
        values = values / params.temperature
        return ids[:kept], np.exp(values, out=values)

    def _head(self, scan: Scan) -> Ids:
        """The likeliest tokens, best first, enough of them to hold top_p of the whole probability."""
        wanted = self._params.top_p * rows.total(scan.weights())
        count = _FIRST_HEAD
        while count < len(scan.row):
            ids = scan.top(count)
            if np.exp(scan.row[ids].astype(np.float64) - scan.best).sum() >= wanted:
                return ids
            count *= 8
        return scan.top(len(scan.row))


def greedy_tokens(logits: Row) -> list[int] | None:
    """The best token of each row of ``logits``, shape (sequences, vocabulary), in one call; None when a row has none
    (then ``sample`` tells which).
    """
    tokens: Ids = logits.argmax(axis=1)
    # argmax finds a NaN before anything else.
    if not np.isfinite(logits[np.arange(len(tokens)), tokens]).all():
        return None
    chosen: list[int] = tokens.tolist()
    return chosen


def logprobs(logits: Row, token: int, top: int) -> TokenLogprobs:
    """The token's log probability and the ``top`` likeliest ones', from a row that nothing has changed.

    Raises SamplingError when the row has no finite logit or a NaN.
    """
    scan = Scan(logits)
    _check(scan.best)
    normaliser = scan.best + math.log(rows.total(scan.weights()))
    likeliest = [(i, float(logits[i]) - normaliser) for i in scan.top(top).tolist()] if top else []
    return TokenLogprobs(float(logits[token]) - normaliser, likeliest)


def _check(best: float) -> None:
    if not -math.inf < best < math.inf:
        raise SamplingError(
            "no allowed token has a finite logit"
            if best == -math.inf
            else f"the model computed a logit that is not a number (the greatest is {best})"
        )


def _restrict(logits: Row, mask: Mask) -> tuple[Row, Ids | None]:
    """A row of what ``mask`` allows, and the tokens it stands for (None: all, the forbidden ones being -inf)."""
    if np.count_nonzero(mask) <= _FEW_WORDS:
        ids = rows.allowed(mask, len(logits))
        return logits[ids], ids
    return rows.masked(logits, mask), None


def _draw(weights: Weights, number: float) -> int:
    """Where ``number``, from [0, 1), falls among ``weights``."""
    if len(weights) <= 2 * rows.BLOCK:
        cumulative = weights.cumsum(dtype=np.float64)
        return _place(cumulative, number * cumulative[-1])
    # First the block, then the place in it: a tenth of the time of summing all of them up.
    cumulative = np.cumsum(rows.sums(weights))
    target = number * cumulative[-1]
    block = _place(cumulative, target)
    start = block * rows.BLOCK
    if block:
        target -= cumulative[block - 1]
    return start + _place(np.cumsum(weights[start : start + rows.BLOCK], dtype=np.float64), target)


def _place(cumulative: npt.NDArray[np.float64], target: float) -> int:
    """The first entry above ``target``; where rounding has put it beyond all, the last that adds anything."""
    place = int(cumulative.searchsorted(target, side="right"))
    return place if place < len(cumulative) else int(cumulative.searchsorted(cumulative[-1]))
