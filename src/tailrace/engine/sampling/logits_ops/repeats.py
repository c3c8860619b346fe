"""Where the end of a list of tokens occurs earlier in it, and what followed there: DRY's history, in NumPy.

``lengths[j]`` is how many tokens before and at place j equal those at the end of the list. When a token is added each
of them follows from its neighbour's, so that a step takes one pass over the list whatever is in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int32]


def measure(tokens: Tokens, lengths: Lengths) -> None:
    """Fill ``lengths`` for all places but the last, by the Z-algorithm over the list read backwards: linear."""
    backwards, size = tokens[::-1].tolist(), len(tokens)
    found = [0] * size
    left = right = 0  #: the box that reaches furthest: places left to right - 1 are the same as those from 0 on
    for place in range(1, size):
        length = min(found[place - left], right - place) if place < right else 0
        while place + length < size and backwards[length] == backwards[place + length]:
            length += 1
        found[place] = length
        if place + length > right:
            left, right = place, place + length
    lengths[:size] = found[::-1]


def extend(tokens: Tokens, lengths: Lengths, size: int) -> None:
    """``tokens[size - 1]`` has been added: ``lengths`` becomes that of ``size`` tokens."""
    same = tokens[: size - 1] == tokens[size - 1]
    longer = np.ones(size - 1, np.int32)
    longer[1:] += lengths[: max(0, size - 2)]
    np.multiply(longer, same, out=lengths[: size - 1])


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
    here = np.minimum(lengths[begin : end - 1], np.arange(1, end - begin, dtype=np.int32))
    np.minimum(here, limit, out=here)
    places = (here >= least).nonzero()[0]
    ids, which = np.unique(tokens[begin + 1 + places], return_inverse=True)
    most = np.zeros(len(ids), np.int32)
    np.maximum.at(most, which, here[places])
    found[: len(ids)], longest[: len(ids)] = ids, most
    return len(ids)
