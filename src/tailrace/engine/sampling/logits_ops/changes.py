"""What bias and penalties do to the logits of a few tokens, and undoing it."""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.logits_ops.numpy_impl import Ids, LogitsRow

_NO_IDS = np.zeros(0, np.intp)
_NO_NUMBERS = np.zeros(0, np.float32)


class Changes:
    """Which tokens of a row, none of them twice in an array, and what becomes of their logits, in this order."""

    __slots__ = ("before", "bias", "biased", "counts", "frequency", "presence", "recent", "record", "repeat", "reply")

    def __init__(self, *, repeat: float = 1.0, frequency: float = 0.0, presence: float = 0.0) -> None:
        self.biased: Ids = _NO_IDS  #: get ``bias`` added
        self.bias: LogitsRow = _NO_NUMBERS
        self.recent: Ids = _NO_IDS  #: are divided by ``repeat`` or, under 0, multiplied with it
        self.repeat = repeat
        self.reply: Ids = _NO_IDS  #: lose ``frequency`` times ``counts`` and ``presence``
        self.counts: LogitsRow = _NO_NUMBERS
        self.frequency = frequency
        self.presence = presence
        #: What ``undo`` puts back, which belongs to whoever applied them.
        self.before: list[tuple[Ids, LogitsRow]] = []
        #: The same for C, made when first needed.
        self.record: object = None


def apply(row: LogitsRow, changes: Changes) -> None:
    """Change ``row``. Raises IndexError, with the row as it was, for a token that it hasn't."""
    changes.before = []
    if len(changes.biased):
        before = _take(row, changes.biased, changes)
        row[changes.biased] = before + changes.bias
    if len(changes.recent):
        before = _take(row, changes.recent, changes)
        with np.errstate(over="ignore"):
            # A penalty over 1 divides what is positive and multiplies the rest: that is the lesser of the two.
            # ``where`` asks each logit for its sign and takes twice as long.
            either = np.minimum if changes.repeat > 1.0 else np.maximum
            row[changes.recent] = either(before / changes.repeat, before * changes.repeat)
    if len(changes.reply):
        before = _take(row, changes.reply, changes)
        row[changes.reply] = before - (changes.counts * changes.frequency + changes.presence)


def _take(row: LogitsRow, ids: Ids, changes: Changes) -> LogitsRow:
    try:
        before = row.take(ids)
    except IndexError:
        undo(row, changes)
        raise
    changes.before.append((ids, before))
    return before


def undo(row: LogitsRow, changes: Changes) -> None:
    """Put ``row`` back as it was before ``apply``."""
    for ids, before in reversed(changes.before):
        row[ids] = before
    changes.before = []
