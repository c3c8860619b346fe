"""The functions of the compiled library with their C types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from tailrace.engine.sampling.logits_ops.native.structs import CandidateRange, FilterParams

_ADDRESS, _INT64, _FLOAT, _DOUBLE, _INT = (
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_double,
    ctypes.c_int,
)
#: How functions over a row begin: its logits, its mask (or None), and its size.
_ROW = (_ADDRESS, _ADDRESS, _INT64)
#: The same and the view's maxima and greatest logit.
_VIEW = (*_ROW, _ADDRESS, _FLOAT)


class Library:
    """The functions; addresses are ints. Their meaning is in the C files."""

    argmax: Callable[[int, int | None, int, int | None], int]
    argmax_of_rows: Callable[[int, int, int, int | None, int], int]
    view_floats: Callable[[int], int]
    view: Callable[[int, int | None, int, int | None, int], float]
    tokens_above: Callable[[int, int | None, int, int, float, int], int]
    top_k: Callable[[int, int | None, int, int, float, int, int, int], int]
    filter: Callable[[int, int | None, int, int, float, FilterParams, int, int, int], int]
    sum_exp: Callable[[int, int | None, int, float], float]
    probabilities: Callable[[int, int | None, int, float, float, int], None]
    entropy_sums: Callable[[int, int | None, int, float, float, int], None]
    mean_and_deviation: Callable[[int, int | None, int, float, int], None]
    block_sums: Callable[[int, int, int], None]
    draw_index: Callable[[int, int, float], int]
    run_samplers: Callable[[int, int, int, CandidateRange, int], int]
    apply: Callable[[int, int, int, int | None], int]
    undo: Callable[[int, int, int | None], None]
    match_lengths: Callable[[int, int, int], None]
    extend_match_lengths: Callable[[int, int, int], None]
    find_continuations: Callable[[int, int, int, int, int, int, int, int, int], int]

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises AttributeError for a function that isn't in ``library``."""
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"tailrace_logits_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "argmax": (_INT64, (*_ROW, _ADDRESS)),
    "argmax_of_rows": (_INT, (_ADDRESS, _INT64, _INT64, _ADDRESS, _ADDRESS)),
    "view_floats": (_INT64, (_INT64,)),
    "view": (_FLOAT, (*_ROW, _ADDRESS, _ADDRESS)),
    "tokens_above": (_INT64, (*_VIEW, _ADDRESS)),
    "top_k": (_INT64, (*_VIEW, _INT64, _ADDRESS, _ADDRESS)),
    "filter": (_INT64, (*_VIEW, ctypes.POINTER(FilterParams), _ADDRESS, _ADDRESS, _ADDRESS)),
    "sum_exp": (_DOUBLE, (*_ROW, _FLOAT)),
    "probabilities": (None, (*_ROW, _FLOAT, _FLOAT, _ADDRESS)),
    "entropy_sums": (None, (*_ROW, _FLOAT, _FLOAT, _ADDRESS)),
    "mean_and_deviation": (None, (*_ROW, _FLOAT, _ADDRESS)),
    "block_sums": (None, (_ADDRESS, _INT64, _ADDRESS)),
    "draw_index": (_INT64, (_ADDRESS, _INT64, _DOUBLE)),
    "run_samplers": (_INT, (_ADDRESS, _ADDRESS, _INT64, ctypes.POINTER(CandidateRange), _ADDRESS)),
    "apply": (_INT, (_ADDRESS, _INT64, _ADDRESS, _ADDRESS)),
    "undo": (None, (_ADDRESS, _ADDRESS, _ADDRESS)),
    "match_lengths": (None, (_ADDRESS, _INT64, _ADDRESS)),
    "extend_match_lengths": (None, (_ADDRESS, _ADDRESS, _INT64)),
    "find_continuations": (_INT64, (_ADDRESS, _ADDRESS, *[_INT64] * 4, *[_ADDRESS] * 3)),
}
