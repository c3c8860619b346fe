"""Passes over rows of logits: argmax, top-k, sums of exponentials, bias and penalties, the samplers over a sorted list.

``interface`` describes each pass once. ``numpy_impl`` and ``native`` (C) implement them; this module chooses between
the two. It must not know requests, models or llama.cpp. A caller asks ``for_row(row).argmax(row)`` for a pass over a
row, and ``active().draw_index(...)`` for the others.
"""

from __future__ import annotations

import ctypes

import numpy as np
import structlog

from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow
from tailrace.engine.sampling.logits_ops.interface import LogitsOps
from tailrace.engine.sampling.logits_ops.native.build import build_fastest
from tailrace.engine.sampling.logits_ops.native.ops import NativeOps
from tailrace.engine.sampling.logits_ops.native.row_maxima import RowMaxima
from tailrace.engine.sampling.logits_ops.numpy_impl import NumpyOps

__all__ = ["RowMaxima", "active", "enable_native", "for_row", "set_row_maxima", "status"]

#: For shorter rows NumPy is as fast.
_MIN_NATIVE_SIZE = 2048
_FLOAT = np.dtype(np.float32)

_numpy: LogitsOps = NumpyOps()
_native: NativeOps | None = None
_active: LogitsOps = _numpy
_status = "not loaded"


def enable_native(choice: str) -> None:
    """Use C from now on (``on``, or ``avx512`` or ``avx2`` for one tier) or NumPy (``off``), in this process.

    Where the C library can't be built, NumPy stays active and ``status`` gives the reason. The first call on a machine
    compiles for some seconds.
    """
    global _native, _active, _status
    _native, _active, _status = None, _numpy, "off"
    if choice == "off":
        return
    try:
        # PyDLL keeps the GIL: see ``NativeOps``.
        _active = _native = NativeOps(ctypes.PyDLL(str(build_fastest(choice))))
        _status = "on"
    except UnsupportedCpu as error:
        _status = str(error)
        structlog.get_logger().info("tokens are chosen in NumPy", reason=_status)
    except NativeUnavailable as error:
        _status = str(error)
        structlog.get_logger().warning("tokens are chosen in NumPy, which is slower", reason=_status)


def status() -> str:
    """``on``, ``off``, or the reason why there is no C."""
    return _status


def set_row_maxima(maxima: RowMaxima | None) -> None:
    """The stored maxima of the present logits; None if there are none.

    They hold until the next call, which must come before other logits are written to the same memory.
    """
    if _native is not None:
        _native.set_row_maxima(maxima)


def for_row(row: LogitsRow) -> LogitsOps:
    """The implementation for passes over ``row`` or rows: C, or NumPy for short rows and unusual arrays."""
    if _native is not None and row.shape[-1] >= _MIN_NATIVE_SIZE and row.flags.carray and row.dtype is _FLOAT:
        return _native
    return _numpy


def active() -> LogitsOps:
    """The implementation for passes over other arrays than rows of logits."""
    return _active
