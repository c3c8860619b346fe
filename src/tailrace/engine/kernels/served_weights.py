"""The repacked copies of the weights that engines have sent to this worker.

A worker doesn't see models, only buffers. The C code (``served_weights``) finds out which of them have weights, repacks
these when they are multiplied with for the first time, and frees the copies with the buffer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from tailrace.engine.kernels import loader

_CAPACITY = ctypes.CFUNCTYPE(ctypes.c_int64)


class ServedWeights:
    """See the module. There is one in a process, and it stays until the process ends."""

    def __init__(self, capacity: Callable[[], int]) -> None:
        """``capacity``: the bytes that the repacked weights of one more buffer may take. Computing threads call it."""
        self._kernels = loader.library()
        if self._kernels is not None:
            # The C code calls it at any later time, so it must not be collected.
            self._capacity = _CAPACITY(capacity)
            self._kernels.tailrace_kernels_served_bytes.restype = ctypes.c_int64
            self._kernels.tailrace_kernels_serve_weights(self._capacity)

    @property
    def bytes(self) -> int:
        """The memory that the repacked weights take now."""
        return int(self._kernels.tailrace_kernels_served_bytes()) if self._kernels is not None else 0
