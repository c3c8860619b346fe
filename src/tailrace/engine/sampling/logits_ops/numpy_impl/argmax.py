"""The token with the greatest logit."""

from __future__ import annotations

import math

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask, TokenIds
from tailrace.engine.sampling.logits_ops.masks import is_allowed
from tailrace.engine.sampling.logits_ops.numpy_impl.masking import restrict


def argmax(row: LogitsRow, mask: Mask | None = None) -> int:
    """See ``LogitsOps.argmax``."""
    token = int(row.argmax())
    if mask is not None and not (math.isfinite(row[token]) and is_allowed(mask, token)):
        row, ids = restrict(row, mask)
        if not len(row):
            return -1
        token = int(row.argmax())
        return -1 if row[token] == -np.inf else token if ids is None else int(ids[token])
    return -1 if row[token] == -np.inf else token


def argmax_of_rows(rows: LogitsRow) -> list[int] | None:
    """See ``LogitsOps.argmax_of_rows``."""
    tokens: TokenIds = rows.argmax(axis=1)
    # ndarray.argmax finds a NaN before anything else.
    if not np.isfinite(rows[np.arange(len(tokens)), tokens]).all():
        return None
    chosen: list[int] = tokens.tolist()
    return chosen
