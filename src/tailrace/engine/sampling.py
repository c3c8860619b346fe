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
from tailrace.engine.penalties import Penalties
from tailrace.engine.rows import Ids, Mask, Row, Scan
from tailrace.errors import TailraceError
from tailrace.messages import Sampling, TokenLogprobs

Weights = npt.NDArray[np.floating]

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
        self._penalties.apply(logits)
        try:
            token = self._choose(logits, mask)
        finally:
            self._penalties.undo(logits)
        self._penalties.accept(token)
        return token

    def accept(self, token: int) -> None:
        """A token that was not for this sampler to choose becomes part of the history."""
        self._penalties.accept(token)

    def distribution(self, logits: Row, mask: Mask | None = None) -> tuple[Ids, npt.NDArray[np.float64]]:
        """The tokens that ``sample`` draws from, and their probabilities. Nothing changes. Raises SamplingError."""
        self._penalties.apply(logits)
        try:
            ids, weights = self._weigh(logits, mask)
        finally:
            self._penalties.undo(logits)
        found = np.arange(len(weights)) if ids is None else ids
        return found, weights / weights.sum(dtype=np.float64)

    def _choose(self, logits: Row, mask: Mask | None) -> int:
        if self._random is not None:
            ids, weights = self._weigh(logits, mask)
            place = _draw(weights, self._random.random())
            return place if ids is None else int(ids[place])
        token = rows.best(logits, mask)
        _check(float(logits[token]) if token >= 0 else -math.inf)
        return token

    def _weigh(self, logits: Row, mask: Mask | None) -> tuple[Ids | None, Weights]:
        """The tokens that can be drawn (None: all) and their probabilities over the likeliest one's."""
        if self._random is None:
            return np.array([self._choose(logits, mask)]), np.ones(1)
        scan = rows.scan(logits, mask)
        _check(scan.best)
        return self._filter(logits, scan)

    def _filter(self, row: Row, scan: Scan) -> tuple[Ids | None, Weights]:
        """The same of a row that has a best token.

        Each filter keeps a beginning of the tokens in falling order, so all of them together keep the shortest one.
        """
        params, best = self._params, scan.best
        top_p, min_p, temperature = params.top_p, params.min_p, params.temperature
        if 0 < params.top_k < len(row):
            return scan.filtered(params.top_k, top_p, min_p, temperature)
        whole = scan.total() if top_p < 1.0 else None
        if min_p > 0.0:
            ids = scan.above(best + math.log(min_p))
            if top_p < 1.0:
                ids = ids[np.argsort(-row[ids], kind="stable")]
        elif whole is not None:
            ids = _head(row, scan, top_p * whole)
        else:
            return scan.weights(temperature)
        weights = rows.narrowed(row[ids], best, top_p=top_p, whole=whole, temperature=temperature)
        return ids[: len(weights)], weights


def greedy_tokens(logits: Row) -> list[int] | None:
    """The best token of each row of ``logits``, shape (sequences, vocabulary), in one call; None when a row has none
    (then ``sample`` tells which).
    """
    return rows.best_of_each(logits)


def logprobs(logits: Row, token: int, top: int) -> TokenLogprobs:
    """The token's log probability and the ``top`` likeliest ones', from a row that nothing has changed.

    Raises SamplingError when the row has no finite logit or a NaN.
    """
    scan = rows.scan(logits)
    _check(scan.best)
    normaliser = scan.best + math.log(scan.total())
    likeliest = [(i, float(logits[i]) - normaliser) for i in scan.top(top).tolist()] if top else []
    return TokenLogprobs(float(logits[token]) - normaliser, likeliest)


def _check(best: float) -> None:
    if not -math.inf < best < math.inf:
        raise SamplingError(
            "no allowed token has a finite logit"
            if best == -math.inf
            else f"the model computed a logit that is not a number (the greatest is {best})"
        )


def _head(row: Row, scan: Scan, wanted: float) -> Ids:
    """The likeliest tokens, best first, enough of them to hold ``wanted`` of probability over the best one's."""
    count = _FIRST_HEAD
    while count < len(row):
        ids = scan.top(count)
        if np.exp(row[ids].astype(np.float64) - scan.best).sum() >= wanted:
            return ids
        count *= 8
    return scan.top(len(row))


def _draw(weights: Weights, number: float) -> int:
    """Where ``number``, from [0, 1), falls among ``weights``."""
    if len(weights) <= 2 * rows.BLOCK:
        return rows.place(weights, number)
    # First the block, then the place in it: a tenth of the time of summing all of them up.
    cumulative = np.cumsum(rows.sums(weights))
    target = number * cumulative[-1]
    block = rows.first_above(cumulative, target)
    start = block * rows.BLOCK
    if block:
        target -= cumulative[block - 1]
    return start + rows.first_above(np.cumsum(weights[start : start + rows.BLOCK], dtype=np.float64), target)
