"""Calls the compiled passes: the C counterpart of ``NumpyOps``.

A call costs 1 µs beside its pass. It keeps the GIL: a thread that took it meanwhile could hold it for 5 ms, and the
longest pass takes less than one.
"""

from __future__ import annotations

import ctypes

import numpy as np

from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import (
    BLOCK,
    Float32Array,
    Float64Array,
    Int32Array,
    LogitsRow,
    Mask,
    Probabilities,
)
from tailrace.engine.sampling.logits_ops.native.addresses import address_of, address_of_mask
from tailrace.engine.sampling.logits_ops.native.library import Library
from tailrace.engine.sampling.logits_ops.native.row_maxima import NO_MAXIMA, RowMaxima
from tailrace.engine.sampling.logits_ops.native.structs import AdjustmentStruct, CandidateRange
from tailrace.engine.sampling.logits_ops.native.view import BuffersBySize, NativeView, ScratchBuffers
from tailrace.engine.sampling.logits_ops.numpy_impl import draw
from tailrace.engine.sampling.logits_ops.sampler_steps import RemainingCandidates, Steps

_DOUBLE = np.dtype(np.float64)


class NativeOps:
    """See ``LogitsOps``. Rows must be contiguous, writable float32 arrays; ``logits_ops.for_row`` sees to that."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises AttributeError for a function that isn't in ``library``."""
        self._library = Library(library)
        self._thread_buffers = BuffersBySize()
        self._row_maxima = NO_MAXIMA

    def set_row_maxima(self, maxima: RowMaxima | None) -> None:
        """See ``logits_ops.set_row_maxima``."""
        self._row_maxima = maxima or NO_MAXIMA

    def view(self, row: LogitsRow, mask: Mask | None = None) -> NativeView:
        """See ``LogitsOps``."""
        address = address_of(row)
        by_size = self._thread_buffers.by_size
        buffers = by_size.get(len(row))
        if buffers is None:
            by_size.clear()  # Few processes ever see a second size.
            buffers = by_size[len(row)] = ScratchBuffers(len(row), self._library.view_floats(len(row)))
        return NativeView(self._library, buffers, row, address, mask, self._row_maxima.at(address))

    def argmax(self, row: LogitsRow, mask: Mask | None = None) -> int:
        """See ``LogitsOps``."""
        address = address_of(row)
        return self._library.argmax(address, address_of_mask(mask, len(row)), len(row), self._row_maxima.at(address))

    def argmax_of_rows(self, rows: LogitsRow) -> list[int] | None:
        """See ``LogitsOps``."""
        count, size = rows.shape
        if not count:
            return []
        tokens = np.empty(count, np.int64)
        address = address_of(rows)
        maxima = self._row_maxima.at(address, count)
        if not self._library.argmax_of_rows(address, count, size, maxima, address_of(tokens)):
            return None
        chosen: list[int] = tokens.tolist()
        return chosen

    def block_sums(self, probs: Float32Array) -> Float64Array:
        """See ``LogitsOps``."""
        sums = np.empty(-(-len(probs) // BLOCK))
        self._library.block_sums(address_of(probs), len(probs), address_of(sums))
        return sums

    def draw_index(self, probs: Probabilities, number: float) -> int:
        """See ``LogitsOps``. C takes double precision alone."""
        if probs.dtype is not _DOUBLE or not probs.flags.carray:
            return draw.draw_index(probs, number)
        return self._library.draw_index(address_of(probs), len(probs), number)

    def run_samplers(
        self, logits: Float64Array, n_candidates: int, temperature: float, steps: Steps
    ) -> RemainingCandidates:
        """See ``LogitsOps``."""
        left = CandidateRange(0, len(logits), n_candidates, temperature)
        probs = np.empty(len(logits))
        steps_address = address_of(steps) if len(steps) else 0
        if not self._library.run_samplers(address_of(logits), steps_address, len(steps), left, address_of(probs)):
            raise ValueError(f"there is no sampler among {steps['kind'].tolist()}")
        begin, end = left.begin, left.end
        return RemainingCandidates(begin, end, left.n_candidates, left.temperature, probs[begin:end])

    def apply(self, row: LogitsRow, adjustment: LogitAdjustment) -> None:
        """See ``LogitsOps``."""
        struct = adjustment.native_struct
        if not isinstance(struct, AdjustmentStruct):
            struct = adjustment.native_struct = AdjustmentStruct(adjustment)
        struct.update(adjustment)
        address = address_of(row)
        if not self._library.apply(address, len(row), struct.address, self._row_maxima.at(address)):
            raise IndexError(f"a token that is to be changed isn't among {len(row)}")

    def undo(self, row: LogitsRow, adjustment: LogitAdjustment) -> None:
        """See ``LogitsOps``."""
        struct = adjustment.native_struct
        assert isinstance(struct, AdjustmentStruct)
        address = address_of(row)
        self._library.undo(address, struct.address, self._row_maxima.at(address))

    def match_lengths(self, tokens: Int32Array, lengths: Int32Array) -> None:
        """See ``LogitsOps``."""
        if len(tokens):
            self._library.match_lengths(address_of(tokens), len(tokens), address_of(lengths))

    def extend_match_lengths(self, tokens: Int32Array, lengths: Int32Array, n_tokens: int) -> None:
        """See ``LogitsOps``."""
        self._library.extend_match_lengths(address_of(tokens), address_of(lengths), n_tokens)

    def find_continuations(
        self,
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
        """See ``LogitsOps``."""
        arrays = map(address_of, (slot_of, found, longest))
        return self._library.find_continuations(
            address_of(tokens), address_of(lengths), begin, end, max_length, min_length, *arrays
        )
