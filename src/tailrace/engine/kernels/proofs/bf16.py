"""Rounding to bf16, the 16-bit floats with 8 bits of mantissa that AMX multiplies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def round_to_bf16(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The nearest numbers of bf16; of two that are as near, the even one."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)).astype(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
