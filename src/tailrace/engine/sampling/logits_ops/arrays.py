"""The arrays that passes over logits read and write."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: The logits of a vocabulary; token t's logit is at t. Several rows are one array of shape (rows, vocabulary).
LogitsRow = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.intp]
#: Allowed tokens: bit t % 32 of word t // 32 stands for token t.
Mask = npt.NDArray[np.uint32]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
#: Relative probabilities, exp((logit - greatest logit) / temperature): the likeliest token has 1. Not normalised.
Probabilities = npt.NDArray[np.floating]

#: Relative probabilities in a block of ``block_sums``.
BLOCK = 4096
