"""Samplers as numbers: what ``LogitsOps.run_samplers`` takes, in Python and in C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailrace.engine.sampling.logits_ops.arrays import Float64Array

#: The kinds of samplers, in the order of the enum in native/sorted_candidates.c.
TOP_K, TOP_P, MIN_P, TYPICAL, XTC, TEMPERATURE, TOP_N_SIGMA, MIROSTAT, MIROSTAT_V2 = range(9)
#: One sampler. ``count`` is top_k's k, mirostat's vocabulary size, or the number of candidates that the others keep at
#: least (``min_keep``). ``a``, ``b`` and ``c`` are parameters; each sampler's function names them.
STEP = np.dtype([("kind", "<i8"), ("count", "<i8"), ("a", "<f8"), ("b", "<f8"), ("c", "<f8")])
Steps = npt.NDArray[np.void]


class RemainingCandidates(NamedTuple):
    """What samplers leave of a list: the candidates from ``begin`` to before ``end``."""

    begin: int
    end: int
    n_candidates: int  #: with those of probability 0, which aren't in the list
    temperature: float  #: that logits are to be divided by
    probs: Float64Array  #: relative probabilities of the candidates that are left
