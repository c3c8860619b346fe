"""The passes over logits in NumPy: for short rows, and where the C library can't be built.

It owns the reference arithmetic: ``native`` is proved against it. It must not depend on ``native``.
"""

from __future__ import annotations

from tailrace.engine.sampling.logits_ops.numpy_impl.adjustment import apply, undo
from tailrace.engine.sampling.logits_ops.numpy_impl.argmax import argmax, argmax_of_rows
from tailrace.engine.sampling.logits_ops.numpy_impl.draw import block_sums, draw_index
from tailrace.engine.sampling.logits_ops.numpy_impl.sorted_candidates import run_samplers
from tailrace.engine.sampling.logits_ops.numpy_impl.suffix_matches import (
    extend_match_lengths,
    find_continuations,
    match_lengths,
)
from tailrace.engine.sampling.logits_ops.numpy_impl.view import NumpyView


class NumpyOps:
    """See ``LogitsOps``."""

    view = NumpyView
    argmax = staticmethod(argmax)
    argmax_of_rows = staticmethod(argmax_of_rows)
    block_sums = staticmethod(block_sums)
    draw_index = staticmethod(draw_index)
    run_samplers = staticmethod(run_samplers)
    apply = staticmethod(apply)
    undo = staticmethod(undo)
    match_lengths = staticmethod(match_lengths)
    extend_match_lengths = staticmethod(extend_match_lengths)
    find_continuations = staticmethod(find_continuations)
