"""How the next token is chosen from a row of logits.

The samplers, their order and their meaning are llama.cpp's (bias, penalties, filters, temperature, draw), except that
frequency and presence penalties count the whole reply and not the prompt, as OpenAI defines them. What is forbidden by
a mask (structured output) is as if the vocabulary didn't have it. ``logits_ops`` has the passes over a row,
``penalties`` and ``dry`` the history, ``chain`` what goes beyond the usual filters in the usual order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import msgspec
import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling import chain, logits_ops
from tailrace.engine.sampling.candidates import Change, SamplingError, Weights, check, head
from tailrace.engine.sampling.dry import Dry
from tailrace.engine.sampling.infill import Infill
from tailrace.engine.sampling.logits_ops import Ids, LogitsRow, LogitsView, Mask
from tailrace.engine.sampling.penalties import Penalties
from tailrace.engine.sampling.sampling_vocabulary import SamplingVocabulary
from tailrace.protocol import SamplerName, Sampling, TokenLogprobs

__all__ = ["Sampler", "SamplingError", "greedy_tokens", "logprobs"]

#: What leaves bias as all that changes a logit.
_NO_PENALTIES = {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


class Sampler:
    """Chooses one sequence's tokens. ``prompt`` is what penalties look back on before the first token."""

    __slots__ = ("_chain", "_changes", "_histories", "_params", "_random", "greedy")

    def __init__(self, params: Sampling, prompt: Seq[int], vocabulary: SamplingVocabulary | None = None) -> None:
        """``vocabulary``: what DRY's breakers, the infill sampler and ``penalize_nl`` are about."""
        plan = chain.plan(params)
        #: What follows the tokens.
        self._histories: dict[SamplerName, Penalties | Dry] = {}
        #: What changes the row before anything else.
        self._changes = self._leading(params, plan.leading, prompt, vocabulary)
        self._params = params if plan.plain is None else plan.plain
        self._chain: chain.Chain | None = None
        self._random: np.random.Generator | None = None
        if not plan.greedy:
            self._random = np.random.default_rng(params.seed)
            if plan.plain is None:
                changes = [
                    self._change(params, name, prompt, vocabulary) for name in plan.rest if name in chain.CHANGES
                ]
                infill = Infill(vocabulary) if "infill" in plan.rest and vocabulary is not None else None
                self._chain = chain.Chain(params, plan.rest, changes, infill)
        #: Without a mask the plain argmax is this sampler's choice: see ``greedy_tokens``.
        self.greedy = self._random is None and not self._changes

    def _leading(
        self, params: Sampling, names: list[SamplerName], prompt: Seq[int], vocabulary: SamplingVocabulary | None
    ) -> list[Change]:
        """Bias first, in one with the penalties where they follow."""
        newline = None if vocabulary is None else vocabulary.newline
        together = names[:1] == ["penalties"]
        first = Penalties(params if together else msgspec.structs.replace(params, **_NO_PENALTIES), prompt, newline)
        if together:
            self._histories["penalties"] = first
        rest = [self._change(params, name, prompt, vocabulary) for name in names[1 if together else 0 :]]
        return [first, *rest] if first else rest

    def _change(
        self, params: Sampling, name: SamplerName, prompt: Seq[int], vocabulary: SamplingVocabulary | None
    ) -> Change:
        if (known := self._histories.get(name)) is not None:
            return known.again()
        made: Penalties | Dry
        if name == "penalties":
            made = Penalties(params, prompt, None if vocabulary is None else vocabulary.newline, bias=False)
        else:
            breakers = None if vocabulary is None else vocabulary.breakers(params.dry_sequence_breakers)
            made = Dry(params, prompt, breakers)
        self._histories[name] = made
        return made

    def sample(self, logits: LogitsRow, mask: Mask | None = None) -> int:
        """The next token, which becomes part of the history. ``logits`` is the vocabulary's row and left as it was.

        With ``mask``, uint32 of shape (ceil(vocabulary / 32),), only tokens whose bit (t % 32 of word t // 32) is set
        can be chosen. Raises SamplingError.
        """
        if self._changes:
            done = self._apply(logits)
            try:
                token = self._choose(logits, mask)
            finally:
                _undo(done, logits)
        else:
            token = self._choose(logits, mask)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """A token that was not for this sampler to choose becomes part of the history."""
        for history in self._histories.values():
            history.accept(token)

    def distribution(self, logits: LogitsRow, mask: Mask | None = None) -> tuple[Ids, npt.NDArray[np.float64]]:
        """The tokens that ``sample`` draws from, and their probabilities. Nothing changes. Raises SamplingError."""
        random = self._random
        state = {} if random is None else random.bit_generator.state
        done = self._apply(logits)
        try:
            ids, weights = self._weigh(logits, mask)
        finally:
            _undo(done, logits)
            if random is not None:
                random.bit_generator.state = state
        found = np.arange(len(weights)) if ids is None else ids
        return found, weights / weights.sum(dtype=np.float64)

    def _apply(self, logits: LogitsRow) -> list[Change]:
        """Change the row; what ``_undo`` needs."""
        done: list[Change] = []
        try:
            for change in self._changes:
                change.apply(logits)
                done.append(change)
        except IndexError:
            _undo(done, logits)
            raise
        return done

    def _choose(self, logits: LogitsRow, mask: Mask | None) -> int:
        if self._random is not None:
            ids, weights = self._weigh(logits, mask)
            place = _draw(weights, self._random.random())
            if self._chain is not None:
                self._chain.choose(weights, place)
            return place if ids is None else int(ids[place])
        token = logits_ops.best(logits, mask)
        check(float(logits[token]) if token >= 0 else -math.inf)
        return token

    def _weigh(self, logits: LogitsRow, mask: Mask | None) -> tuple[Ids | None, Weights]:
        """The tokens that can be drawn (None: all) and their probabilities over the likeliest one's."""
        if self._random is None:
            return np.array([self._choose(logits, mask)]), np.ones(1)
        scan = logits_ops.scan(logits, mask)
        check(scan.best)
        if self._chain is not None:
            return self._chain.weigh(logits, mask, scan, self._random)
        return self._filter(logits, scan)

    def _filter(self, row: LogitsRow, scan: LogitsView) -> tuple[Ids | None, Weights]:
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
            ids = head(row, scan, top_p * whole)
        else:
            return scan.weights(temperature)
        weights = logits_ops.narrowed(row[ids], best, top_p=top_p, whole=whole, temperature=temperature)
        return ids[: len(weights)], weights


def greedy_tokens(logits: LogitsRow) -> list[int] | None:
    """The best token of each row of ``logits``, shape (sequences, vocabulary), in one call; None when a row has none
    (then ``sample`` tells which).
    """
    return logits_ops.best_of_each(logits)


def logprobs(logits: LogitsRow, token: int, top: int) -> TokenLogprobs:
    """The token's log probability and the ``top`` likeliest ones', from a row that nothing has changed.

    Raises SamplingError when the row has no finite logit or a NaN.
    """
    scan = logits_ops.scan(logits)
    check(scan.best)
    normaliser = scan.best + math.log(scan.total())
    likeliest = [(i, float(logits[i]) - normaliser) for i in scan.top(top).tolist()] if top else []
    return TokenLogprobs(float(logits[token]) - normaliser, likeliest)


def logprobs_of(ids: Ids, probabilities: npt.NDArray[np.float64], token: int, top: int) -> TokenLogprobs:
    """The same of a ``distribution``, in which ``token`` was drawn; of the likeliest those that can be drawn at all."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    likeliest = [(int(ids[i]), math.log(probabilities[i])) for i in order if probabilities[i] > 0]
    chosen = float(probabilities[ids == token].sum())
    return TokenLogprobs(math.log(chosen) if chosen > 0 else -math.inf, likeliest)


def _undo(done: list[Change], logits: LogitsRow) -> None:
    for change in reversed(done):
        change.undo(logits)


def _draw(weights: Weights, number: float) -> int:
    """Where ``number``, from [0, 1), falls among ``weights``."""
    if len(weights) <= 2 * logits_ops.BLOCK:
        return logits_ops.place(weights, number)
    # First the block, then the place in it: a tenth of the time of summing all of them up.
    cumulative = np.cumsum(logits_ops.sums(weights))
    target = number * cumulative[-1]
    block = logits_ops.first_above(cumulative, target)
    start = block * logits_ops.BLOCK
    if block:
        target -= cumulative[block - 1]
    return start + logits_ops.first_above(
        np.cumsum(weights[start : start + logits_ops.BLOCK], dtype=np.float64), target
    )
