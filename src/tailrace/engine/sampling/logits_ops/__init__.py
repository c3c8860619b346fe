"""Questions to rows of logits, each answered in about one pass: the best, the k best, all above a bound, sums of
exponentials, what a mask leaves; and what bias and penalties change in them.

``plain`` and ``changes`` answer in NumPy, ``native`` in C (rows.c, changes.c), which ``build`` has made for this CPU by
the compiler of ``kernels`` and ``proof`` holds against NumPy before it is used. Nothing here knows requests or the
binding. Only ``apply`` and ``undo`` change a row.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.sampling.logits_ops import changes as _changes
from tailrace.engine.sampling.logits_ops import narrowing as _narrow
from tailrace.engine.sampling.logits_ops import numpy_impl as plain
from tailrace.engine.sampling.logits_ops import repeats as _repeats
from tailrace.engine.sampling.logits_ops.build import built
from tailrace.engine.sampling.logits_ops.changes import Changes
from tailrace.engine.sampling.logits_ops.narrowing import Narrowed, Steps
from tailrace.engine.sampling.logits_ops.native import LogitsView as NativeLogitsView
from tailrace.engine.sampling.logits_ops.native import Native, RowMaxima
from tailrace.engine.sampling.logits_ops.numpy_impl import (
    BLOCK,
    Ids,
    LogitsRow,
    Mask,
    Numbers,
    all_but,
    first_above,
    many_allowed,
    narrowed,
)
from tailrace.engine.sampling.logits_ops.repeats import Lengths, Tokens

__all__ = [
    "BLOCK",
    "Changes",
    "Ids",
    "Lengths",
    "LogitsRow",
    "LogitsView",
    "Mask",
    "Narrowed",
    "Numbers",
    "RowMaxima",
    "Steps",
    "Tokens",
    "all_but",
    "apply",
    "best",
    "best_of_each",
    "enable_native",
    "extend",
    "first_above",
    "followers",
    "many_allowed",
    "measure",
    "narrow",
    "narrowed",
    "place",
    "scan",
    "set_row_maxima",
    "status",
    "sums",
    "undo",
]

LogitsView = plain.LogitsView | NativeLogitsView

#: NumPy is as fast with rows shorter than this.
_SHORT = 2048
_FLOAT, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

_native: Native | None = None
_status = "not loaded"


def enable_native(choice: str) -> None:
    """Answer in C from now on (``on``, ``avx512``) or in NumPy (``off``), in this process. Where there can be no C,
    NumPy does it, and ``status`` says why. The first time on a machine it takes some seconds.
    """
    global _native, _status
    _native, _status = None, "off"
    if choice == "off":
        return
    try:
        # The GIL is kept: see ``native``.
        _native = Native(ctypes.PyDLL(str(built())))
        _status = "on"
    except KernelsUnavailable as error:
        _status = str(error)
        structlog.get_logger().info("tokens are chosen in NumPy", why=_status)


def status() -> str:
    """``on``, ``off``, or why there is no C."""
    return _status


def set_row_maxima(maxima: RowMaxima | None) -> None:
    """Tell what whoever computed the present rows has kept of them (None: nothing). It holds until this is called
    again, which has to be before other rows lie there.
    """
    if _native is not None:
        _native.set_row_maxima(maxima)


def _c(row: LogitsRow) -> Native | None:
    """What answers for ``row``, if it isn't NumPy."""
    return _native if row.shape[-1] >= _SHORT and row.flags.carray and row.dtype is _FLOAT else None


def scan(row: LogitsRow, mask: Mask | None = None) -> LogitsView:
    """Look at ``row``, or at what ``mask`` allows of it. What is found lasts until the next scan."""
    native = _c(row)
    return plain.LogitsView(row, mask) if native is None else native.scan(row, mask)


def best(row: LogitsRow, mask: Mask | None = None) -> int:
    """The likeliest token that ``mask`` allows, of equals the lowest, before all one that is NaN; -1 where every one is
    -inf.
    """
    native = _c(row)
    return plain.best(row, mask) if native is None else native.best(row, mask)


def best_of_each(rows: LogitsRow) -> list[int] | None:
    """``best`` of each row of ``rows``; None when the logit of one isn't finite."""
    native = _c(rows) if len(rows) else None
    return plain.best_of_each(rows) if native is None else native.best_of_each(rows)


def sums(weights: LogitsRow) -> Numbers:
    """Sums of consecutive blocks of ``BLOCK`` weights, the last one shorter."""
    native = _c(weights)
    return plain.sums(weights) if native is None else native.sums(weights)


def place(weights: npt.NDArray[Any], number: float) -> int:
    """Where ``number``, from [0, 1), falls among ``weights``; where rounding has put it beyond all, the last that adds
    anything.
    """
    if _native is not None and weights.dtype is _DOUBLE and weights.flags.carray:
        return _native.place(weights, number)
    return plain.place(weights, number)


def narrow(logits: Numbers, size: int, temperature: float, steps: Steps) -> Narrowed:
    """Apply ``steps`` to candidates with these ``logits``, at least one, finite and in falling order; ``size`` counts
    candidates of probability 0 as well.
    """
    if _native is None:
        return _narrow.narrow(logits, size, temperature, steps)
    return _native.narrow(logits, size, temperature, steps)


def measure(tokens: Tokens, lengths: Lengths) -> None:
    """Write to ``lengths``, for each place but the last, how many tokens before and at it equal those at the end."""
    (_repeats if _native is None else _native).measure(tokens, lengths)


def extend(tokens: Tokens, lengths: Lengths, size: int) -> None:
    """``tokens[size - 1]`` has been added: ``lengths`` becomes that of ``size`` tokens."""
    (_repeats if _native is None else _native).extend(tokens, lengths, size)


def followers(
    tokens: Tokens,
    lengths: Lengths,
    begin: int,
    end: int,
    limit: int,
    least: int,
    seen: Tokens,
    found: Tokens,
    longest: Lengths,
) -> int:
    """The tokens between ``begin`` and ``end`` that follow a repetition of the end of at least ``least`` tokens, once
    each, into ``found``, and how long their longest repetition is into ``longest``; how many they are. Repetitions
    reach back to ``begin`` and are ``limit`` long at most. ``seen``: a 0 for each token that there may be.
    """
    answers = _repeats if _native is None else _native
    return answers.followers(tokens, lengths, begin, end, limit, least, seen, found, longest)


def apply(row: LogitsRow, changes: Changes) -> None:
    """Change ``row``. Raises IndexError, with the row as it was, for a token that it hasn't."""
    native = _c(row)
    if native is None:
        _changes.apply(row, changes)
    else:
        native.apply(row, changes)


def undo(row: LogitsRow, changes: Changes) -> None:
    """Put ``row`` back as it was before ``apply``."""
    native = _c(row)
    if native is None:
        _changes.undo(row, changes)
    else:
        native.undo(row, changes)
