"""Row maxima of logits (``products/row_maxima.h``): what they have to be, and what a library has of its last logits."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]

#: Logits whose maxima are one vector of 16 lanes.
_ROWS, _LANES = 256, 16


def row_maxima_of(logits: Numbers) -> Numbers:
    """The maxima of ``logits``: of 256 in the last dimension, one for each lane. Shape (..., ceil(size / 256), 16)."""
    size = logits.shape[-1]
    padded = np.full((*logits.shape[:-1], -(-size // _ROWS) * _ROWS), -np.inf, np.float32)
    padded[..., :size] = logits
    maxima: Numbers = padded.reshape(*logits.shape[:-1], -1, _ROWS // _LANES, _LANES).max(-2)
    return maxima


def take_row_maxima(library: ctypes.CDLL) -> Numbers | None:
    """The maxima that ``library`` has of its last logits, shape (tokens, ceil(vocabulary / 256), 16). They are returned
    once; None where there are none.
    """
    tokens, rows = ctypes.c_int64(), ctypes.c_int64()
    take = library["tailrace_kernels_take_row_maxima"]
    take.restype = ctypes.POINTER(ctypes.c_float)
    found = take(ctypes.byref(tokens), ctypes.byref(rows))
    shape = tokens.value, -(-rows.value // _ROWS), _LANES
    return np.ctypeslib.as_array(found, shape).copy() if found else None
