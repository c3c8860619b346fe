"""DRY: a token that would go on repeating earlier text gets a penalty, which grows with the length of the repetition.

The history follows the tokens one by one: a new token costs one pass over the window, whatever tokens are in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.dry_breakers import Breakers
from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import Float32Array, Int32Array, LogitsRow, TokenIds
from tailrace.generation_params import Sampling

#: llama.cpp's limit for the penalty's logarithm, so that the penalty is a finite single-precision number.
_MAX_LOG_PENALTY = 88.7228391
#: With a base nearer to 1 the exponent needs no limit: its powers stay small.
_MIN_LIMITED_BASE = 1.000001
#: How many tokens back in a prompt a breaker is searched. A breaker further away limits only longer repetitions.
_BREAKER_SEARCH = 4096


def is_on(params: Sampling) -> bool:
    """Whether DRY can ever change a logit."""
    return params.dry_multiplier > 0.0 and params.dry_base >= 1.0 and params.dry_penalty_last_n != 0


class Dry:
    """A logits processor over one sequence's last ``dry_penalty_last_n`` tokens of prompt and reply."""

    __slots__ = (
        "_adjustment",
        "_breaker_start",
        "_breaker_tail",
        "_breakers",
        "_found",
        "_lengths",
        "_longest",
        "_max_exponent",
        "_n_dropped",
        "_n_tokens",
        "_params",
        "_slot_of",
        "_tokens",
        "_window",
    )

    def __init__(self, params: Sampling, prompt: Seq[int], breakers: Breakers | None = None) -> None:
        """DRY must be on in ``params`` (see ``is_on``)."""
        self._params = params
        self._breakers = breakers
        base = params.dry_base
        self._max_exponent = int(_MAX_LOG_PENALTY / math.log(base)) if base > _MIN_LIMITED_BASE else 0
        self._adjustment = LogitAdjustment(frequency_penalty=1.0)
        last_n = params.dry_penalty_last_n
        self._window: int | None = last_n if last_n > 0 else None
        history = prompt if self._window is None else prompt[-self._window :]
        self._n_tokens = len(history)  #: tokens in the arrays
        self._n_dropped = 0  #: earlier tokens that are no longer in the arrays
        capacity = max(64, 2 * self._n_tokens)
        self._tokens: Int32Array = np.zeros(capacity, np.int32)
        self._tokens[: self._n_tokens] = history
        self._lengths: Int32Array = np.zeros(capacity, np.int32)
        logits_ops.active().match_lengths(self._tokens[: self._n_tokens], self._lengths[: self._n_tokens])
        self._found, self._longest = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        self._slot_of = np.zeros(1 + max(history, default=0), np.int32)
        #: The position of the last breaker's first token, counted from the first token of all, and how many tokens the
        #: breaker has behind that.
        self._breaker_start, self._breaker_tail = -1, 0
        self._find_breaker_in_prompt()

    def share(self) -> SharedDry:
        """Another processor over the same history."""
        return SharedDry(self)

    def accept(self, token: int) -> None:
        """``token`` has become part of the reply."""
        if self._n_tokens == len(self._tokens):
            self._reallocate()
        self._tokens[self._n_tokens] = token
        self._n_tokens += 1
        logits_ops.active().extend_match_lengths(self._tokens, self._lengths, self._n_tokens)
        if token >= len(self._slot_of):
            self._slot_of = np.zeros(2 * token + 1, np.int32)
        if self._breakers is not None:
            self._note_breaker(self._breakers, self._n_tokens)

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """See ``LogitsProcessor``."""
        self.apply_with(self._adjustment, row, scale)

    def undo(self, row: LogitsRow) -> None:
        """See ``LogitsProcessor``."""
        logits_ops.for_row(row).undo(row, self._adjustment)

    def apply_with(self, adjustment: LogitAdjustment, row: LogitsRow, scale: float) -> None:
        """``apply``, with ``adjustment`` as what ``undo`` needs."""
        adjustment.count_tokens, adjustment.counts = self._penalties()
        if scale != 1.0:
            adjustment.counts = adjustment.counts * np.float32(scale)
        logits_ops.for_row(row).apply(row, adjustment)

    def _penalties(self) -> tuple[TokenIds, Float32Array]:
        """The tokens that would go on repeating, and the penalty of each."""
        params, end = self._params, self._n_tokens
        n_window = end if self._window is None else min(end, self._window)
        none = np.zeros(0, np.intp), np.zeros(0, np.float32)
        if n_window <= params.dry_allowed_length:
            return none
        max_length = n_window
        since_breaker = self._n_dropped + end - 1 - self._breaker_start
        if self._breaker_start >= 0 and since_breaker < n_window:
            max_length = since_breaker - self._breaker_tail
            if max_length < params.dry_allowed_length:
                return none
        count = logits_ops.active().find_continuations(
            self._tokens,
            self._lengths,
            end - n_window,
            end,
            max_length,
            params.dry_allowed_length,
            self._slot_of,
            self._found,
            self._longest,
        )
        if not count:
            return none
        tokens, longest = self._found[:count].astype(np.intp), self._longest[:count]
        if self._breakers is not None:
            is_penalised = ~self._breakers.single[tokens]
            tokens, longest = tokens[is_penalised], longest[is_penalised]
        exponents = longest - params.dry_allowed_length
        if self._max_exponent:
            exponents = np.minimum(exponents, self._max_exponent)
        with np.errstate(over="ignore"):
            penalties = params.dry_multiplier * np.power(params.dry_base, exponents.astype(np.float64))
            return tokens, penalties.astype(np.float32)

    def _reallocate(self) -> None:
        """Drop the tokens before the window and double the arrays where they are still full."""
        n_left = self._n_tokens if self._window is None else min(self._n_tokens, self._window)
        capacity = max(64, 2 * n_left)
        n_dropped = self._n_tokens - n_left
        for name in ("_tokens", "_lengths"):
            longer = np.zeros(capacity, np.int32)
            longer[:n_left] = getattr(self, name)[n_dropped : self._n_tokens]
            setattr(self, name, longer)
        if len(self._found) < capacity:
            self._found, self._longest = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        self._n_dropped += n_dropped
        self._n_tokens = n_left

    def _find_breaker_in_prompt(self) -> None:
        if self._breakers is None:
            return
        begin = max(0, self._n_tokens - _BREAKER_SEARCH)
        for position in self._breakers.possible_ends(self._tokens[begin : self._n_tokens]):
            # A breaker that ends at this position begins there at the latest.
            if self._breaker_start >= begin + position:
                return
            self._note_breaker(self._breakers, begin + position + 1)

    def _note_breaker(self, breakers: Breakers, n_tokens: int) -> None:
        """Remember the breaker that ends with token ``n_tokens - 1``, if one does."""
        tail = breakers.tail_at_end(self._tokens[:n_tokens])
        if tail < 0:
            return
        start = self._n_dropped + n_tokens - 1 - tail
        if start > self._breaker_start or (start == self._breaker_start and tail > self._breaker_tail):
            self._breaker_start, self._breaker_tail = start, tail


class SharedDry:
    """A logits processor over another ``Dry``'s history: DRY that a request names twice in its samplers."""

    __slots__ = ("_adjustment", "_dry")

    def __init__(self, dry: Dry) -> None:
        self._dry = dry
        self._adjustment = LogitAdjustment(frequency_penalty=1.0)

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """See ``LogitsProcessor``."""
        self._dry.apply_with(self._adjustment, row, scale)

    def undo(self, row: LogitsRow) -> None:
        """See ``LogitsProcessor``."""
        logits_ops.for_row(row).undo(row, self._adjustment)
