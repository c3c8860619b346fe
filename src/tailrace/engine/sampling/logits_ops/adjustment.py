"""What bias and penalties do to the logits of a few tokens: the data, without the arithmetic."""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Float32Array, TokenIds

_NO_TOKENS = np.zeros(0, np.intp)
_NO_NUMBERS = np.zeros(0, np.float32)


class LogitAdjustment:
    """Three sets of tokens, and what is done to their logits, in this order. No set has a token twice."""

    __slots__ = (
        "bias",
        "bias_tokens",
        "count_tokens",
        "counts",
        "frequency_penalty",
        "native_struct",
        "presence_penalty",
        "repeat_penalty",
        "repeat_tokens",
        "saved",
    )

    def __init__(
        self, *, repeat_penalty: float = 1.0, frequency_penalty: float = 0.0, presence_penalty: float = 0.0
    ) -> None:
        self.bias_tokens: TokenIds = _NO_TOKENS  #: ``bias`` is added to each
        self.bias: Float32Array = _NO_NUMBERS
        #: A logit above 0 is divided by ``repeat_penalty``, one below is multiplied with it.
        self.repeat_tokens: TokenIds = _NO_TOKENS
        self.repeat_penalty = repeat_penalty
        #: ``frequency_penalty`` times ``counts``, and ``presence_penalty``, are subtracted.
        self.count_tokens: TokenIds = _NO_TOKENS
        self.counts: Float32Array = _NO_NUMBERS
        self.frequency_penalty = frequency_penalty
        self.presence_penalty = presence_penalty
        #: For ``undo`` in NumPy: the replaced logits.
        self.saved: list[tuple[TokenIds, Float32Array]] = []
        #: For C: the same data as a ctypes structure, made at the first use. None after a penalty has changed.
        self.native_struct: object = None
