"""Whether a built library's products with interleaved weights are what the formats mean, by any number of columns."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from tailrace.engine.kernels.layouts import LAYOUTS, Bytes, random_weights
from tailrace.engine.kernels.standin import Tensor, linked, run_by, tensor_of

Numbers = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]

KINDS = (Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K)
#: Formats with a minimum besides the scale: their columns know their sums, rounded to 16 bits.
_WITH_MINIMA = frozenset({Kind.Q4_1})
#: Rows, blocks in each and numbers of columns: few panels of 16 rows and every rest of columns; and (None) so many rows
#: that threads take turns, from 1 MB on. With more columns products may be others (``prompt_proof``).
_SHAPES = ((80, 7, (39, 16, 9, 8, 7, 6, 5, 4, 3, 2, 1)), (16, 1, (1,)), (None, 17, (3,)))
#: Of the largest sum. Both sides use single precision, in another order.
_TOLERANCE = 2e-5
#: Bytes of weights from which threads take turns, in which alone logits' maxima can be kept.
_LARGE = 1 << 20
#: The number of the model that the proof's weights are.
_MODEL = 1
#: What a buffer of weights is for (a pool's stand-in takes the address for it), and one that caches.
WEIGHTS, OTHER = 1, 2


def wrong_interleaved(library: ctypes.CDLL) -> list[str]:
    """Formats whose interleaved products ``library`` computes wrongly or not at all. The library's links to llama.cpp
    are made anew after this.
    """
    random = np.random.default_rng(13)
    with linked(library):
        return [
            f"interleaved {kind.name}"
            for kind in KINDS
            if not all(_agrees(library, kind, random, *shape) for shape in _SHAPES)
        ]


def _agrees(
    library: ctypes.CDLL,
    kind: Kind,
    random: np.random.Generator,
    rows: int | None,
    blocks: int,
    counts: tuple[int, ...],
) -> bool:
    block = LAYOUTS[kind].numbers
    rows = rows or (_LARGE // (16 * blocks * LAYOUTS[kind].bytes) + 1) * 16
    weights = random_weights(kind, random, rows, blocks * block)
    activations = random.standard_normal((max(counts), blocks * block)).astype(np.float32)
    activations[-1, :block] = 0
    expected = _product(kind, weights, activations)
    all_columns: Numbers | None = None
    with copying(library, 2 * weights.nbytes):
        for columns in counts:
            found = multiply(library, kind, weights, activations[:columns])
            if not np.abs(found - expected[:columns]).max() <= _TOLERANCE * np.abs(expected).max():
                return False
            if weights.nbytes > _LARGE and not _kept_rightly(library, found):
                return False
            # To the last bit: a reply's numbers don't depend on how many others run.
            all_columns = found if all_columns is None else all_columns
            if not np.array_equal(found, all_columns[:columns]):
                return False
    return True


@contextmanager
def copying(library: ctypes.CDLL, budget: int) -> Iterator[None]:
    """Weights are copied in here, up to so many bytes, and forgotten after it."""
    library.tailrace_kernels_set_repack_budget(_MODEL, ctypes.c_int64(budget))
    try:
        yield
    finally:
        library.tailrace_kernels_set_repack_budget(_MODEL, ctypes.c_int64(0))
        library.tailrace_kernels_free_repacked(_MODEL)


def _kept_rightly(library: ctypes.CDLL, found: Numbers) -> bool:
    kept = kept_of(library)
    return kept is not None and np.array_equal(kept, maxima_of(found))


def maxima_of(logits: Numbers) -> Numbers:
    """What is to be kept of them (row_maxima.h): of the last dimension each lane's greatest of 256, shape
    (..., ceil(rows / 256), 16).
    """
    rows = logits.shape[-1]
    whole = np.full((*logits.shape[:-1], -(-rows // 256) * 256), -np.inf, np.float32)
    whole[..., :rows] = logits
    maxima: Numbers = whole.reshape(*logits.shape[:-1], -1, 16, 16).max(-2)
    return maxima


def kept_of(library: ctypes.CDLL) -> Numbers | None:
    """What ``library`` has kept of the last product, shape (columns, ceil(rows / 256), 16)."""
    columns, rows = ctypes.c_int64(), ctypes.c_int64()
    library.tailrace_kernels_take_row_maxima.restype = ctypes.POINTER(ctypes.c_float)
    found = library.tailrace_kernels_take_row_maxima(ctypes.byref(columns), ctypes.byref(rows))
    shape = columns.value, -(-rows.value // 256), 16
    return np.ctypeslib.as_array(found, shape).copy() if found else None


def multiply(
    library: ctypes.CDLL,
    kind: Kind,
    weights: Bytes,
    activations: Numbers,
    *,
    threads: int = 2,
    usage: int = WEIGHTS,
    name: bytes = b"result_output",
) -> Numbers:
    """The product by ``library`` as llama.cpp asks for it, by as many threads as its pool has; NaN where it did
    nothing. Weights are copied where the library may do so. By their name these are logits.
    """
    own = weights_of(kind, weights, usage)
    columns = tensor_of(activations[None, None])
    found = np.full((len(activations), len(weights)), np.nan, np.float32)
    result = tensor_of(found[None, None])
    result.sources[0], result.sources[1] = ctypes.addressof(own), ctypes.addressof(columns)
    result.name = name
    run_by(threads, library.ggml_compute_forward_mul_mat_tiled, result)
    return found


def weights_of(kind: Kind, weights: Bytes, usage: int = WEIGHTS) -> Tensor:
    """The tensor of so many rows of bytes."""
    rows, bytes_each = weights.shape
    layout = LAYOUTS[kind]
    tensor = Tensor(type=int(kind), buffer=usage, data=weights.ctypes.data)
    tensor.sizes[:] = (bytes_each // layout.bytes * layout.numbers, rows, 1, 1)
    tensor.strides[:] = (layout.bytes, bytes_each, weights.nbytes, weights.nbytes)
    return tensor


def _product(kind: Kind, weights: Bytes, activations: Numbers) -> Exact:
    """What it should be, with activations rounded as llama.cpp does it."""
    size = LAYOUTS[kind].numbers
    blocks = activations.reshape(len(activations), -1, size)
    most = np.abs(blocks).max(2, keepdims=True)
    times = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most != 0)
    quants = np.rint(blocks * times)
    if size == 256:
        scale = np.divide(np.float32(1), times, out=np.zeros_like(most), where=most != 0)
        kept = scale.astype(np.float64)
    else:
        scale = most / np.float32(127)
        kept = scale.astype(np.float16).astype(np.float64)
    meant: Exact = (quants * kept).reshape(activations.shape)
    values: Exact = dequantize(weights, kind).astype(np.float64)
    expected: Exact = meant @ values.T
    if kind not in _WITH_MINIMA:
        return expected
    minima = weights.reshape(len(weights), -1, 20)[:, :, 2:4].copy().view(np.float16)[..., 0].astype(np.float64)
    sums = (scale * quants.sum(2, keepdims=True, dtype=np.float32)).astype(np.float16)[..., 0].astype(np.float64)
    # The minima count with the sums as they are kept, not with what the rounded numbers add up to.
    expected += (sums - meant.reshape(len(meant), -1, 32).sum(2)) @ minima.T
    return expected
