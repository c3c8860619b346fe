"""DRY: a token that would go on repeating what has been said is the less likely, the longer the repetition is already.

The history follows the tokens one by one: ``logits_ops.extend`` takes one pass over the window whatever it holds, so no
history is dearer than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np

from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.dry_breakers import Breakers
from tailrace.engine.sampling.logits_ops import Changes, Lengths, LogitsRow, Tokens
from tailrace.protocol import Sampling

#: The exponent is bounded so that the penalty is a single-precision number: its greatest logarithm, as llama.cpp has
#: it.
_MAX_LOG = 88.7228391
#: A base nearer to 1 has no bound: its powers stay small.
_LEAST_BASE = 1.000001
#: How far back in a prompt a breaker is looked for. One that is further away would bound longer repetitions alone.
_LOOK_BACK = 4096


def is_on(params: Sampling) -> bool:
    """Whether DRY can ever change a logit."""
    return params.dry_multiplier > 0.0 and params.dry_base >= 1.0 and params.dry_penalty_last_n != 0


class Dry:
    """One sequence's history of the last ``dry_penalty_last_n`` tokens of prompt and reply, and what it forbids."""

    __slots__ = (
        "_break_at",
        "_break_tail",
        "_breakers",
        "_changes",
        "_found",
        "_lengths",
        "_longest",
        "_max_exponent",
        "_params",
        "_seen",
        "_shifted",
        "_size",
        "_tokens",
        "_window",
    )

    def __init__(self, params: Sampling, prompt: Seq[int], breakers: Breakers | None = None) -> None:
        """``params`` have it on."""
        self._params = params
        self._breakers = breakers
        base = params.dry_base
        self._max_exponent = int(_MAX_LOG / math.log(base)) if base > _LEAST_BASE else 0
        self._changes = Changes(frequency=1.0)
        last = params.dry_penalty_last_n
        self._window: int | None = last if last > 0 else None
        kept = prompt if self._window is None else prompt[-self._window :]
        self._size = len(kept)  #: tokens in the arrays
        self._shifted = 0  #: tokens that were in front of them
        capacity = max(64, 2 * self._size)
        self._tokens: Tokens = np.zeros(capacity, np.int32)
        self._tokens[: self._size] = kept
        self._lengths: Lengths = np.zeros(capacity, np.int32)
        logits_ops.measure(self._tokens[: self._size], self._lengths[: self._size])
        self._found, self._longest = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        self._seen = np.zeros(1 + max(kept, default=0), np.int32)
        #: Where the last breaker begins, counted from the first token of all, and how many tokens it has behind that.
        self._break_at, self._break_tail = -1, 0
        self._find_breaker()

    def again(self) -> DryAgain:
        """The same history for one more place in a chain."""
        return DryAgain(self)

    def accept(self, token: int) -> None:
        """``token`` has become part of the reply."""
        if self._size == len(self._tokens):
            self._make_room()
        self._tokens[self._size] = token
        self._size += 1
        logits_ops.extend(self._tokens, self._lengths, self._size)
        if token >= len(self._seen):
            self._seen = np.zeros(2 * token + 1, np.int32)
        if self._breakers is not None:
            self._note(self._breakers, self._size)

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """Change ``row``, until ``undo``. ``scale``: what its logits will be divided by afterwards and the penalties
        are not.
        """
        self.apply_with(self._changes, row, scale)

    def undo(self, row: LogitsRow) -> None:
        """Put ``row`` back as it was before ``apply``."""
        logits_ops.undo(row, self._changes)

    def apply_with(self, changes: Changes, row: LogitsRow, scale: float) -> None:
        """The same; ``changes`` is what it takes to undo it."""
        changes.reply, changes.counts = self._penalised()
        if scale != 1.0:
            changes.counts = changes.counts * np.float32(scale)
        logits_ops.apply(row, changes)

    def _penalised(self) -> tuple[logits_ops.Ids, LogitsRow]:
        """The tokens that would go on repeating, and what their logits lose."""
        params, end = self._params, self._size
        size = end if self._window is None else min(end, self._window)
        none = np.zeros(0, np.intp), np.zeros(0, np.float32)
        if size <= params.dry_allowed_length:
            return none
        limit = size
        away = self._shifted + end - 1 - self._break_at
        if self._break_at >= 0 and away < size:
            limit = away - self._break_tail
            if limit < params.dry_allowed_length:
                return none
        many = logits_ops.followers(
            self._tokens,
            self._lengths,
            end - size,
            end,
            limit,
            params.dry_allowed_length,
            self._seen,
            self._found,
            self._longest,
        )
        if not many:
            return none
        tokens, longest = self._found[:many].astype(np.intp), self._longest[:many]
        if self._breakers is not None:
            penalised = ~self._breakers.single[tokens]
            tokens, longest = tokens[penalised], longest[penalised]
        exponents = longest - params.dry_allowed_length
        if self._max_exponent:
            exponents = np.minimum(exponents, self._max_exponent)
        with np.errstate(over="ignore"):
            losses = params.dry_multiplier * np.power(params.dry_base, exponents.astype(np.float64))
            return tokens, losses.astype(np.float32)

    def _make_room(self) -> None:
        """What has left the window goes, or the arrays become twice as long."""
        kept = self._size if self._window is None else min(self._size, self._window)
        capacity = max(64, 2 * kept)
        gone = self._size - kept
        for name in ("_tokens", "_lengths"):
            longer = np.zeros(capacity, np.int32)
            longer[:kept] = getattr(self, name)[gone : self._size]
            setattr(self, name, longer)
        if len(self._found) < capacity:
            self._found, self._longest = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        self._shifted += gone
        self._size = kept

    def _find_breaker(self) -> None:
        """Look for the last breaker in the prompt."""
        if self._breakers is None:
            return
        begin = max(0, self._size - _LOOK_BACK)
        for place in self._breakers.ends(self._tokens[begin : self._size]):
            # A breaker that ends here begins here at the latest.
            if self._break_at >= begin + place:
                return
            self._note(self._breakers, begin + place + 1)

    def _note(self, breakers: Breakers, size: int) -> None:
        """A breaker may end with token ``size - 1``."""
        tail = breakers.ending(self._tokens[:size])
        if tail < 0:
            return
        begin = self._shifted + size - 1 - tail
        if begin > self._break_at or (begin == self._break_at and tail > self._break_tail):
            self._break_at, self._break_tail = begin, tail


class DryAgain:
    """DRY that acts once more."""

    __slots__ = ("_changes", "_first")

    def __init__(self, first: Dry) -> None:
        self._first = first
        self._changes = Changes(frequency=1.0)

    def apply(self, row: LogitsRow, scale: float = 1.0) -> None:
        """As ``Dry.apply``."""
        self._first.apply_with(self._changes, row, scale)

    def undo(self, row: LogitsRow) -> None:
        """As ``Dry.undo``."""
        logits_ops.undo(row, self._changes)
