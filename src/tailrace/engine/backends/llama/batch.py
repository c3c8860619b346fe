"""The batch that a decode is fed from: C arrays that numpy fills."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BatchViews:
    """numpy views of the batch's C arrays."""

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    outputs: npt.NDArray[np.int8]


def make_batch(size: int) -> tuple[llama.llama_batch, BatchViews]:
    """A batch for ``size`` tokens of one slot each. Its arrays are numpy's, which the views keep alive."""
    batch = llama.llama_batch()
    views = BatchViews(
        tokens=np.zeros(size, np.int32),
        positions=np.zeros(size, np.int32),
        slots=np.zeros(size, np.int32),
        outputs=np.zeros(size, np.int8),
    )
    ones = np.ones(size, np.int32)
    pointers = views.slots.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
    batch._keep = (ones, pointers)
    batch.token = ctypes.cast(views.tokens.ctypes.data, type(batch.token))
    batch.pos = ctypes.cast(views.positions.ctypes.data, type(batch.pos))
    batch.n_seq_id = ctypes.cast(ones.ctypes.data, type(batch.n_seq_id))
    batch.seq_id = ctypes.cast(pointers.ctypes.data, type(batch.seq_id))
    batch.logits = ctypes.cast(views.outputs.ctypes.data, type(batch.logits))
    return batch, views
