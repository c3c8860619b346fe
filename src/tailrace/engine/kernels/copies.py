"""What the kernels copy of a model's weights: once, in an order that products of sixteen rows at a time want."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.engine.kernels import force

_numbers = itertools.count(1)


class Copies:
    """The copies of one model's weights. Nothing but these methods may go on in llama.cpp while one of them runs."""

    def __init__(self, budget: int) -> None:
        """``budget``: bytes that they may take; 0 for none at all."""
        self._model = next(_numbers)
        self.budget = budget

    @contextmanager
    def made(self) -> Iterator[None]:
        """Weights that are multiplied with for the first time in here are copied, as long as the budget lasts."""
        kernels = force.library() if self.budget else None
        if kernels is None:
            yield
            return
        kernels.tailrace_kernels_interleave(self._model, ctypes.c_int64(self.budget))
        try:
            yield
        finally:
            kernels.tailrace_kernels_interleave(self._model, ctypes.c_int64(0))

    @property
    def bytes(self) -> int:
        """What they take by now."""
        kernels = force.library()
        return int(kernels.tailrace_kernels_interleaved(self._model)) if kernels is not None else 0

    def forget(self) -> None:
        """Give them back, before the model is freed: other weights may come to lie where its have been."""
        kernels = force.library()
        if kernels is not None:
            kernels.tailrace_kernels_forget(self._model)
