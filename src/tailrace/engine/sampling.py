"""How the next token is chosen from a row of logits.

The filters, their order and their meaning are llama.cpp's (penalties and bias, top_k, top_p, min_p, temperature, draw),
except that frequency and presence penalties count the whole reply and not the prompt, as OpenAI defines them.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt

from tailrace.messages import Sampling, TokenLogprobs

Row = npt.NDArray[np.float32]

#: Logits this far below the best (in units of temperature, natural log) have a probability under 1e-13 each: dropping
#: them before sorting changes no draw that a 53-bit random number could tell.
_NEGLIGIBLE = 40.0
#: Logits this far below the best hold the 40 likeliest tokens of nearly every step.
_NEAR = 12.0


class Sampler:
    """Chooses one sequence's tokens. ``prompt`` is what the repeat penalty looks back on before the first token."""

    __slots__ = ("_bias", "_counts", "_history", "_params", "_random", "greedy")

    def __init__(self, params: Sampling, prompt: Seq[int]) -> None:
        self._params = params
        self._bias: tuple[npt.NDArray[np.intp], Row] | None = None
        if params.logit_bias:
            ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
            self._bias = ids, np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self._history: list[int] | None = list(prompt) if params.repeat_penalty != 1.0 else None
        penalised = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        self._counts: dict[int, int] | None = {} if penalised else None
        self._random: np.random.Generator | None = None
        if params.temperature > 0.0:
            self._random = np.random.default_rng(params.seed)
        #: The plain argmax is this sampler's choice: a step full of such sequences is sampled in one numpy call.
        self.greedy = self._random is None and self._bias is None and self._history is None and self._counts is None

    def sample(self, logits: Row) -> int:
        """The next token. ``logits`` (the vocabulary's) may be changed in place."""
        if not self.greedy:
            self._penalise(logits)
        token = int(logits.argmax()) if self._random is None else self._draw(logits, self._random)
        if self._history is not None:
            self._history.append(token)
        if self._counts is not None:
            self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _penalise(self, logits: Row) -> None:
        params = self._params
        if self._bias is not None:
            ids, bias = self._bias
            logits[ids] += bias
        if self._history:
            last = params.repeat_last_n
            window = self._history if last < 0 else self._history[max(0, len(self._history) - last) :]
            ids = np.unique(np.asarray(window, dtype=np.intp))
            seen = logits[ids]
            logits[ids] = np.where(seen > 0, seen / params.repeat_penalty, seen * params.repeat_penalty)
        if self._counts:
            ids = np.fromiter(self._counts.keys(), dtype=np.intp)
            counts = np.fromiter(self._counts.values(), dtype=np.float32)
            logits[ids] -= counts * params.frequency_penalty + params.presence_penalty

    def _draw(self, logits: Row, random: np.random.Generator) -> int:
        ids, probabilities = self._distribution(logits)
        cumulative = np.cumsum(probabilities)
        drawn = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        return int(ids[min(drawn, len(ids) - 1)])

    def _distribution(self, logits: Row) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Tokens that can be drawn and their probabilities (not normalised)."""
        params = self._params
        best = float(logits.max())
        ids = self._candidates(logits, best)
        values = logits[ids].astype(np.float64)
        if params.top_p < 1.0:
            order = np.argsort(-values, kind="stable")
            ids, values = ids[order], values[order]
            mass = np.cumsum(np.exp(values - best))
            keep = int(np.searchsorted(mass, params.top_p * mass[-1], side="left")) + 1
            ids, values = ids[:keep], values[:keep]
        if params.min_p > 0.0:
            kept = values >= best + np.log(params.min_p)
            ids, values = ids[kept], values[kept]
        return ids, np.exp((values - best) / params.temperature)

    def _candidates(self, logits: Row, best: float) -> npt.NDArray[np.intp]:
        """What top_k keeps, or without it every token that isn't negligible."""
        k = self._params.top_k
        if not 0 < k < len(logits):
            return np.flatnonzero(logits >= best - _NEGLIGIBLE * max(1.0, self._params.temperature))
        # Selecting from the few tokens near the best one is ten times faster than from the whole row.
        ids = np.flatnonzero(logits >= best - _NEAR)
        if len(ids) < k:
            return np.argpartition(logits, len(logits) - k)[-k:]
        return ids[np.argpartition(logits[ids], len(ids) - k)[-k:]]


def logprobs(logits: Row, token: int, top: int) -> TokenLogprobs:
    """The chosen token's log probability and the ``top`` likeliest, from a row that no penalty has touched."""
    values = logits.astype(np.float64)
    best = values.max()
    normaliser = best + np.log(np.exp(values - best).sum())
    likeliest: list[tuple[int, float]] = []
    if top:
        ids = np.argpartition(values, len(values) - top)[-top:]
        ids = ids[np.argsort(-values[ids], kind="stable")]
        likeliest = [(int(i), float(values[i] - normaliser)) for i in ids]
    return TokenLogprobs(float(values[token] - normaliser), likeliest)
