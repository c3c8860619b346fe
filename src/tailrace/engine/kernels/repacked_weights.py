"""The repacked copy of one model's weights, which the kernels make once and multiply with.

This module sets the limits and frees the memory. The C code (``repack``) makes the copy and finds it again.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.engine.kernels import loader

_model_ids = itertools.count(1)


class RepackedWeights:
    """The repacked weights of one model. llama.cpp may compute nothing while a method of this class runs, except
    inside the block of ``repacking``.
    """

    def __init__(self, budget: int) -> None:
        """``budget``: the bytes that the repacked weights may take; 0 repacks none."""
        self._model_id = next(_model_ids)
        self.budget = budget

    @contextmanager
    def repacking(self) -> Iterator[None]:
        """Inside the block, the first product with a weight tensor repacks that tensor, within the budget."""
        kernels = loader.library() if self.budget else None
        if kernels is None:
            yield
            return
        kernels.tailrace_kernels_set_repack_budget(self._model_id, ctypes.c_int64(self.budget))
        try:
            yield
        finally:
            kernels.tailrace_kernels_set_repack_budget(self._model_id, ctypes.c_int64(0))

    @property
    def bytes(self) -> int:
        """The memory that the repacked weights take now."""
        kernels = loader.library()
        return int(kernels.tailrace_kernels_repacked_bytes(self._model_id)) if kernels is not None else 0

    def free(self) -> None:
        """Free the repacked weights. The caller does so before it frees the model: another model's weights may get the
        same addresses, by which the kernels find the repacked ones.
        """
        kernels = loader.library()
        if kernels is not None:
            kernels.tailrace_kernels_free_repacked(self._model_id)
