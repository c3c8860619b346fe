"""Samplers as numbers: what ``LogitsOps.run_samplers`` takes, in Python and in C."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling.logits_ops.arrays import Float64Array


class SamplerKind(IntEnum):
    """The kinds of samplers, with the numbers of ``enum sampler_kind`` in native/sorted_candidates.c."""

    TOP_K = 0
    TOP_P = 1
    MIN_P = 2
    TYPICAL = 3
    XTC = 4
    TEMPERATURE = 5
    TOP_N_SIGMA = 6
    MIROSTAT = 7
    MIROSTAT_V2 = 8


#: One sampler; ``kind`` is a ``SamplerKind``. ``count`` is top_k's k, mirostat's vocabulary size, or the number of
#: candidates that the other samplers keep at least (``min_keep``). ``a``, ``b`` and ``c`` are parameters, which each
#: sampler's function names.
STEP = np.dtype([("kind", "<i8"), ("count", "<i8"), ("a", "<f8"), ("b", "<f8"), ("c", "<f8")])
Steps = npt.NDArray[np.void]


class RemainingCandidates(NamedTuple):
    """What samplers leave of a list: the candidates from ``begin`` to before ``end``."""

    begin: int
    end: int
    n_candidates: int  #: with those of probability 0, which aren't in the list
    temperature: float  #: that logits are to be divided by
    probs: Float64Array  #: relative probabilities of the candidates that are left
