"""Addresses of arrays, for calls through ctypes."""

from __future__ import annotations

import ctypes
from typing import Any

from tailrace.engine.sampling.logits_ops.arrays import Mask


def address_of(array: Any) -> int:
    """The address of a contiguous, writable array. It takes a fourth of the time of ``array.ctypes.data``. Raises
    TypeError for other arrays.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


def address_of_mask(mask: Mask | None, vocabulary_size: int) -> int | None:
    """The address of ``mask``, which may be read-only. Raises ValueError if it is too short for the vocabulary."""
    if mask is None:
        return None
    if 32 * len(mask) < vocabulary_size:
        raise ValueError(f"a mask of {len(mask)} words for {vocabulary_size} tokens")
    return address_of(mask) if mask.flags.writeable else mask.ctypes.data
