"""DRY's history: how long the tokens before each position match the end of the list.

When a token is added, each length follows from its neighbour's. So a step takes one pass over the list, whatever tokens
are in it.
"""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Int32Array


def match_lengths(tokens: Int32Array, lengths: Int32Array) -> None:
    """See ``LogitsOps.match_lengths``. The Z-algorithm over the reversed list: linear."""
    reversed_tokens, n_tokens = tokens[::-1].tolist(), len(tokens)
    z = [0] * n_tokens
    left = right = 0  #: the match that reaches furthest: positions left to right - 1 equal those from 0 on
    for at in range(1, n_tokens):
        length = min(z[at - left], right - at) if at < right else 0
        while at + length < n_tokens and reversed_tokens[length] == reversed_tokens[at + length]:
            length += 1
        z[at] = length
        if at + length > right:
            left, right = at, at + length
    lengths[:n_tokens] = z[::-1]


def extend_match_lengths(tokens: Int32Array, lengths: Int32Array, n_tokens: int) -> None:
    """See ``LogitsOps.extend_match_lengths``."""
    same = tokens[: n_tokens - 1] == tokens[n_tokens - 1]
    longer = np.ones(n_tokens - 1, np.int32)
    longer[1:] += lengths[: max(0, n_tokens - 2)]
    np.multiply(longer, same, out=lengths[: n_tokens - 1])


def find_continuations(
    tokens: Int32Array,
    lengths: Int32Array,
    begin: int,
    end: int,
    max_length: int,
    min_length: int,
    slot_of: Int32Array,
    found: Int32Array,
    longest: Int32Array,
) -> int:
    """See ``LogitsOps.find_continuations``."""
    within = np.minimum(lengths[begin : end - 1], np.arange(1, end - begin, dtype=np.int32))
    np.minimum(within, max_length, out=within)
    positions = (within >= min_length).nonzero()[0]
    ids, which = np.unique(tokens[begin + 1 + positions], return_inverse=True)
    max_lengths = np.zeros(len(ids), np.int32)
    np.maximum.at(max_lengths, which, within[positions])
    found[: len(ids)], longest[: len(ids)] = ids, max_lengths
    return len(ids)
