"""Chooses the next token from a row of logits.

The samplers, their order and their meaning are llama.cpp's (bias, penalties, filters, temperature, draw). One thing
differs: frequency and presence penalties count the whole reply and not the prompt, as OpenAI defines them. A token that
a mask (structured output) forbids is treated as if the vocabulary didn't have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import msgspec
import numpy as np

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.candidates import LogitsProcessor, SamplingError, check_max_logit, tokens_covering
from tailrace.engine.sampling.chain import Chain
from tailrace.engine.sampling.dry import Dry
from tailrace.engine.sampling.infill import Infill
from tailrace.engine.sampling.logits_ops.arrays import BLOCK, Float64Array, LogitsRow, Mask, Probabilities, TokenIds
from tailrace.engine.sampling.logits_ops.formulas import filtered_probs, first_above
from tailrace.engine.sampling.logits_ops.interface import LogitsView
from tailrace.engine.sampling.penalties import Penalties
from tailrace.engine.sampling.sampler_plan import LOGITS_PROCESSORS, plan_samplers
from tailrace.engine.sampling.token_facts import SamplingVocabulary
from tailrace.generation_params import SamplerName, Sampling
from tailrace.protocol import TokenLogprobs

__all__ = ["Sampler", "SamplingError", "greedy_tokens", "logprobs", "logprobs_of"]

#: Parameters that leave logit_bias alone.
_NO_PENALTIES = {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


class Sampler:
    """Chooses one sequence's tokens, and keeps its random numbers and histories."""

    __slots__ = ("_chain", "_histories", "_params", "_processors", "_random", "greedy")

    def __init__(self, params: Sampling, prompt: Seq[int], vocabulary: SamplingVocabulary | None = None) -> None:
        """``prompt`` begins the histories of penalties and DRY. ``vocabulary`` is for DRY's breakers, the infill
        sampler and ``penalize_nl``.
        """
        plan = plan_samplers(params)
        self._histories: dict[SamplerName, Penalties | Dry] = {}
        #: The logits processors before all other samplers.
        self._processors = self._leading_processors(params, plan.leading, prompt, vocabulary)
        self._params = params if plan.fast_path is None else plan.fast_path
        self._chain: Chain | None = None
        self._random: np.random.Generator | None = None
        if not plan.greedy:
            self._random = np.random.default_rng(params.seed)
            if plan.fast_path is None:
                names = [name for name in plan.rest if name in LOGITS_PROCESSORS]
                processors = [self._processor(params, name, prompt, vocabulary) for name in names]
                infill = Infill(vocabulary) if "infill" in plan.rest and vocabulary is not None else None
                self._chain = Chain(params, plan.rest, processors, infill)
        #: Without a mask, the argmax of the row is this sampler's choice: see ``greedy_tokens``.
        self.greedy = self._random is None and not self._processors

    def _leading_processors(
        self, params: Sampling, names: list[SamplerName], prompt: Seq[int], vocabulary: SamplingVocabulary | None
    ) -> list[LogitsProcessor]:
        """The bias, in one processor with the penalties if they come next, and the processors of ``names``."""
        newline = None if vocabulary is None else vocabulary.newline
        penalties_first = names[:1] == ["penalties"]
        first_params = params if penalties_first else msgspec.structs.replace(params, **_NO_PENALTIES)
        first = Penalties(first_params, prompt, newline)
        if penalties_first:
            self._histories["penalties"] = first
            names = names[1:]
        rest = [self._processor(params, name, prompt, vocabulary) for name in names]
        return [first, *rest] if first else rest

    def _processor(
        self, params: Sampling, name: SamplerName, prompt: Seq[int], vocabulary: SamplingVocabulary | None
    ) -> LogitsProcessor:
        """A penalties or DRY processor. All processors of one name share a history."""
        if (known := self._histories.get(name)) is not None:
            return known.share()
        made: Penalties | Dry
        if name == "penalties":
            made = Penalties(params, prompt, None if vocabulary is None else vocabulary.newline, bias=False)
        else:
            breakers = None if vocabulary is None else vocabulary.breakers(params.dry_sequence_breakers)
            made = Dry(params, prompt, breakers)
        self._histories[name] = made
        return made

    def sample(self, logits: LogitsRow, mask: Mask | None = None) -> int:
        """Choose the next token and add it to the histories. ``logits`` is unchanged afterwards.

        With ``mask``, uint32 of shape (ceil(vocabulary / 32),), a token can be chosen only if its bit (t % 32 of word
        t // 32) is set. Raises SamplingError.
        """
        if self._processors:
            applied = self._apply_processors(logits)
            try:
                token = self._choose(logits, mask)
            finally:
                _undo(applied, logits)
        else:
            token = self._choose(logits, mask)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Add ``token``, which this sampler or a grammar has chosen, to the histories."""
        for history in self._histories.values():
            history.accept(token)

    def distribution(self, logits: LogitsRow, mask: Mask | None = None) -> tuple[TokenIds, Float64Array]:
        """The tokens that ``sample`` draws from, and their probabilities. No state changes. Raises SamplingError."""
        random = self._random
        state = {} if random is None else random.bit_generator.state
        applied = self._apply_processors(logits)
        try:
            ids, probs = self._probabilities(logits, mask)
        finally:
            _undo(applied, logits)
            if random is not None:
                random.bit_generator.state = state
        return np.arange(len(probs)) if ids is None else ids, probs / probs.sum(dtype=np.float64)

    def _apply_processors(self, logits: LogitsRow) -> list[LogitsProcessor]:
        """Change the row; returns what ``_undo`` needs."""
        applied: list[LogitsProcessor] = []
        try:
            for processor in self._processors:
                processor.apply(logits)
                applied.append(processor)
        except IndexError:
            _undo(applied, logits)
            raise
        return applied

    def _choose(self, logits: LogitsRow, mask: Mask | None) -> int:
        if self._random is not None:
            ids, probs = self._probabilities(logits, mask)
            index = _draw(probs, self._random.random())
            if self._chain is not None:
                self._chain.accept(probs, index)
            return index if ids is None else int(ids[index])
        token = logits_ops.for_row(logits).argmax(logits, mask)
        check_max_logit(float(logits[token]) if token >= 0 else -math.inf)
        return token

    def _probabilities(self, logits: LogitsRow, mask: Mask | None) -> tuple[TokenIds | None, Probabilities]:
        """The tokens that can be drawn (None: all) and their relative probabilities."""
        if self._random is None:
            return np.array([self._choose(logits, mask)]), np.ones(1)
        view = logits_ops.for_row(logits).view(logits, mask)
        check_max_logit(view.max_logit)
        if self._chain is not None:
            return self._chain.probabilities(logits, mask, view, self._random)
        return self._filter(logits, view)

    def _filter(self, row: LogitsRow, view: LogitsView) -> tuple[TokenIds | None, Probabilities]:
        """The usual filters in the usual order. Each keeps a beginning of the tokens in falling order, so together they
        keep the shortest beginning.
        """
        params, max_logit = self._params, view.max_logit
        top_p, min_p, temperature = params.top_p, params.min_p, params.temperature
        if 0 < params.top_k < len(row):
            return view.filter(params.top_k, top_p, min_p, temperature)
        sum_exp = view.sum_exp() if top_p < 1.0 else None
        if min_p > 0.0:
            ids = view.tokens_above(max_logit + math.log(min_p))
            if top_p < 1.0:
                ids = ids[np.argsort(-row[ids], kind="stable")]
        elif sum_exp is not None:
            ids = tokens_covering(row, view, top_p * sum_exp)
        else:
            return view.probabilities(temperature)
        probs = filtered_probs(row[ids], max_logit, top_p=top_p, sum_exp=sum_exp, temperature=temperature)
        return ids[: len(probs)], probs


def greedy_tokens(logits: LogitsRow) -> list[int] | None:
    """The best token of each row of ``logits``, shape (sequences, vocabulary), in one call. None if a row has none:
    then ``sample`` finds which.
    """
    return logits_ops.for_row(logits).argmax_of_rows(logits)


def logprobs(logits: LogitsRow, token: int, top: int) -> TokenLogprobs:
    """The token's log probability and those of the ``top`` likeliest tokens, from a row before any sampler.

    Raises SamplingError if the row has no finite logit or a NaN.
    """
    view = logits_ops.for_row(logits).view(logits)
    check_max_logit(view.max_logit)
    log_sum_exp = view.max_logit + math.log(view.sum_exp())
    likeliest = [(i, float(logits[i]) - log_sum_exp) for i in view.top_k(top).tolist()] if top else []
    return TokenLogprobs(float(logits[token]) - log_sum_exp, likeliest)


def logprobs_of(ids: TokenIds, probabilities: Float64Array, token: int, top: int) -> TokenLogprobs:
    """The same after all samplers: ``ids`` and ``probabilities`` are the ``distribution`` that ``token`` was drawn
    from. The likeliest tokens are those that can be drawn.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    likeliest = [(int(ids[i]), math.log(probabilities[i])) for i in order if probabilities[i] > 0]
    chosen = float(probabilities[ids == token].sum())
    return TokenLogprobs(math.log(chosen) if chosen > 0 else -math.inf, likeliest)


def _undo(applied: list[LogitsProcessor], logits: LogitsRow) -> None:
    for processor in reversed(applied):
        processor.undo(logits)


def _draw(probs: Probabilities, number: float) -> int:
    """See ``LogitsOps.draw_index``."""
    if len(probs) <= 2 * BLOCK:
        return logits_ops.active().draw_index(probs, number)
    # First the block, then the index in it: a tenth of the time of adding up all of them.
    cumulative = np.cumsum(logits_ops.for_row(probs).block_sums(probs))
    target = number * cumulative[-1]
    block = first_above(cumulative, target)
    start = block * BLOCK
    if block:
        target -= cumulative[block - 1]
    return start + first_above(np.cumsum(probs[start : start + BLOCK], dtype=np.float64), target)
