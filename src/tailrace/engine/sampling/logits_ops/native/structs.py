"""The structures that the C code reads and writes."""

from __future__ import annotations

import ctypes

import numpy as np

from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import Float32Array, TokenIds
from tailrace.engine.sampling.logits_ops.native.addresses import address_of

_ADDRESS, _INT64, _FLOAT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double


class CandidateRange(ctypes.Structure):
    """``struct range`` of sorted_candidates.c."""

    _fields_ = [("begin", _INT64), ("end", _INT64), ("n_candidates", _INT64), ("temperature", _DOUBLE)]


class FilterParams(ctypes.Structure):
    """``struct filter_params`` of draw.c."""

    _fields_ = [("top_k", _INT64), ("top_p", _DOUBLE), ("min_logit_distance", _DOUBLE), ("temperature", _DOUBLE)]


class AdjustmentStruct(ctypes.Structure):
    """``struct adjustment`` of adjustment.c."""

    _fields_ = [
        ("bias_tokens", _ADDRESS),
        ("repeat_tokens", _ADDRESS),
        ("count_tokens", _ADDRESS),
        ("bias", _ADDRESS),
        ("counts", _ADDRESS),
        ("saved_logits", _ADDRESS),
        ("saved_maxima", _ADDRESS),
        ("n_bias", _INT64),
        ("n_repeat", _INT64),
        ("n_count", _INT64),
        ("repeat_penalty", _FLOAT),
        ("frequency_penalty", _FLOAT),
        ("presence_penalty", _FLOAT),
    ]

    def __init__(self, adjustment: LogitAdjustment) -> None:
        super().__init__()
        self.address = ctypes.addressof(self)
        self.repeat_penalty = adjustment.repeat_penalty
        self.frequency_penalty = adjustment.frequency_penalty
        self.presence_penalty = adjustment.presence_penalty
        self._saved: Float32Array = np.empty(0, np.float32)
        self._arrays: tuple[TokenIds, TokenIds] | None = None

    def update(self, adjustment: LogitAdjustment) -> None:
        """Take over the addresses of arrays that are others than at the last call."""
        bias_tokens, repeat_tokens = adjustment.bias_tokens, adjustment.repeat_tokens
        count_tokens = adjustment.count_tokens
        if self._arrays is not None and self._arrays[0] is repeat_tokens and self._arrays[1] is count_tokens:
            return
        self._arrays = repeat_tokens, count_tokens
        self.n_bias, self.n_repeat, self.n_count = sizes = len(bias_tokens), len(repeat_tokens), len(count_tokens)
        if sizes[0]:
            self.bias_tokens, self.bias = address_of(bias_tokens), address_of(adjustment.bias)
        if sizes[1]:
            self.repeat_tokens = address_of(repeat_tokens)
        if sizes[2]:
            self.count_tokens, self.counts = address_of(count_tokens), address_of(adjustment.counts)
        total = sum(sizes)
        if 2 * total > len(self._saved):
            # The logits, and behind them the maxima.
            self._saved = np.empty(4 * total, np.float32)
            self.saved_logits = address_of(self._saved)
            self.saved_maxima = self.saved_logits + 2 * self._saved.itemsize * total
