"""A view of one row in C: see ``LogitsView``."""

from __future__ import annotations

import ctypes
import math
import threading

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Float32Array, Float64Array, LogitsRow, Mask, TokenIds
from tailrace.engine.sampling.logits_ops.formulas import MAX_INVERSE_TEMPERATURE
from tailrace.engine.sampling.logits_ops.native.addresses import address_of, address_of_mask
from tailrace.engine.sampling.logits_ops.native.library import Library
from tailrace.engine.sampling.logits_ops.native.structs import FilterParams

_LOWEST = float(np.finfo(np.float32).min)


class ScratchBuffers:
    """Buffers for results over rows of one size, and their addresses. Pages that nothing is written to take no
    memory.
    """

    __slots__ = (
        "_other_buffers",
        "maxima_address",
        "probs",
        "probs_address",
        "scratch_address",
        "tokens",
        "tokens_address",
    )

    def __init__(self, size: int, maxima_size: int) -> None:
        self.tokens: TokenIds = np.empty(size, np.intp)
        self.probs: Float32Array = np.empty(size, np.float32)
        self._other_buffers = np.empty(size, np.int64), np.empty(maxima_size, np.float32)
        self.tokens_address, self.probs_address = address_of(self.tokens), address_of(self.probs)
        self.scratch_address, self.maxima_address = map(address_of, self._other_buffers)


class BuffersBySize(threading.local):
    """One thread's buffers. Each access to its attribute costs 0.1 µs."""

    def __init__(self) -> None:
        self.by_size: dict[int, ScratchBuffers] = {}


class NativeView:
    """See ``LogitsView``."""

    __slots__ = ("_buffers", "_library", "_mask", "_mask_address", "_row", "_row_address", "_size", "max_logit")

    def __init__(
        self,
        library: Library,
        buffers: ScratchBuffers,
        row: LogitsRow,
        row_address: int,
        mask: Mask | None,
        group_maxima: int | None,
    ) -> None:
        """``group_maxima``: the address of the row's stored maxima (see ``RowMaxima``), or None."""
        self._library, self._buffers = library, buffers
        # The arrays are held so that their addresses stay valid.
        self._row, self._mask, self._size = row, mask, len(row)
        self._row_address, self._mask_address = row_address, address_of_mask(mask, self._size)
        self.max_logit = library.view(row_address, self._mask_address, self._size, group_maxima, buffers.maxima_address)

    def top_k(self, k: int) -> TokenIds:
        """See ``LogitsView``."""
        buffers = self._buffers
        found = self._library.top_k(
            self._row_address,
            self._mask_address,
            self._size,
            buffers.maxima_address,
            self.max_logit,
            min(k, self._size),
            buffers.tokens_address,
            buffers.scratch_address,
        )
        return buffers.tokens[:found].copy()

    def filter(self, top_k: int, top_p: float, min_p: float, temperature: float) -> tuple[TokenIds, Float64Array]:
        """See ``LogitsView``."""
        buffers = self._buffers
        top_k = min(top_k, self._size)
        probs = np.empty(top_k)
        left = self._library.filter(
            self._row_address,
            self._mask_address,
            self._size,
            buffers.maxima_address,
            self.max_logit,
            FilterParams(top_k, top_p, math.log(min_p) if min_p > 0.0 else -math.inf, temperature),
            buffers.tokens_address,
            buffers.scratch_address,
            address_of(probs),
        )
        return buffers.tokens[:left].copy(), probs[:left]

    def tokens_above(self, bound: float) -> TokenIds:
        """See ``LogitsView``."""
        buffers = self._buffers
        found = self._library.tokens_above(
            self._row_address,
            self._mask_address,
            self._size,
            buffers.maxima_address,
            max(bound, _LOWEST),
            buffers.tokens_address,
        )
        return buffers.tokens[:found].copy()

    def probabilities(self, temperature: float = 1.0) -> tuple[TokenIds | None, Float32Array]:
        """See ``LogitsView``."""
        self._library.probabilities(
            self._row_address,
            self._mask_address,
            self._size,
            self.max_logit,
            min(1.0 / temperature, MAX_INVERSE_TEMPERATURE),
            self._buffers.probs_address,
        )
        return None, self._buffers.probs

    def sum_exp(self) -> float:
        """See ``LogitsView``."""
        return self._library.sum_exp(self._row_address, self._mask_address, self._size, self.max_logit)

    def sum_exp_and_entropy(self, temperature: float = 1.0) -> tuple[float, float]:
        """See ``LogitsView``."""
        sums = (ctypes.c_double * 2)()
        factor = min(1.0 / temperature, MAX_INVERSE_TEMPERATURE)
        self._library.entropy_sums(
            self._row_address, self._mask_address, self._size, self.max_logit, factor, ctypes.addressof(sums)
        )
        return sums[0], math.log(sums[0]) - sums[1] / sums[0]

    def mean_and_deviation(self) -> tuple[float, float]:
        """See ``LogitsView``."""
        both = (ctypes.c_double * 2)()
        self._library.mean_and_deviation(
            self._row_address, self._mask_address, self._size, self.max_logit, ctypes.addressof(both)
        )
        return both[0], both[1]
