"""ggml's tensors over NumPy's arrays, and operations that threads compute on them as ggml's do."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType

from tailrace.engine.kernels.proofs.random_weights import Bytes, block_bytes, block_weights, type_bytes
from tailrace.engine.native_libs.ggml_layout import GgmlStruct

#: ``enum ggml_backend_buffer_usage``: a buffer of weights, and one of another kind.
WEIGHTS, COMPUTE = 1, 2
#: Bytes of an operation's work buffer.
_WORK_BYTES = 1 << 24


def tensor_of(array: npt.NDArray[np.floating]) -> GgmlStruct:
    """A tensor of 32-bit or 16-bit floats over ``array``, whose last dimension is the tensor's first."""
    ggml_type = GgmlType.F16 if array.dtype == np.float16 else GgmlType.F32
    return _tensor(ggml_type, array.ctypes.data, array.shape[::-1], array.strides[::-1])


def weight_tensor(ggml_type: GgmlType, weights: Bytes, usage: int = WEIGHTS) -> GgmlStruct:
    """A tensor over the bytes of ``weights``, one row of a matrix in each row; ``usage`` is that of its buffer.

    Three dimensions are the matrices of experts.
    """
    *experts, rows, row_bytes = weights.shape
    n_experts = experts[0] if experts else 1
    shape = (row_bytes // block_bytes(ggml_type) * block_weights(ggml_type), rows, n_experts, 1)
    strides = (type_bytes(ggml_type), row_bytes, rows * row_bytes, weights.nbytes)
    tensor = _tensor(ggml_type, weights.ctypes.data, shape, strides)
    tensor.set("buffer", usage)
    return tensor


def id_tensor(ids: npt.NDArray[np.int32]) -> GgmlStruct:
    """A tensor over the experts that tokens chose, shape (tokens, experts of a token) and any strides."""
    return _tensor(GgmlType.I32, ids.ctypes.data, (*ids.shape[::-1], 1, 1), (*ids.strides[::-1], 0, 0))


def cache_tensor(ggml_type: GgmlType, cells: Bytes) -> GgmlStruct:
    """A tensor over keys or values of a KV cache, shape (streams, heads, cells, bytes of a cell) and any strides."""
    # Of 16-bit floats there may be any number, which needn't be whole blocks of the kernels.
    head_dim = cells.shape[-1] * block_weights(ggml_type) // block_bytes(ggml_type)
    strides = (type_bytes(ggml_type), *cells.strides[-2::-1])
    return _tensor(ggml_type, cells.ctypes.data, (head_dim, *cells.shape[-2::-1]), strides)


def _tensor(ggml_type: GgmlType, data: int, shape: Sequence[int], strides: Sequence[int]) -> GgmlStruct:
    tensor = GgmlStruct("ggml_tensor", type=int(ggml_type), data=data)
    for index, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        tensor.set("ne", size, index)
        tensor.set("nb", stride, index)
    return tensor


def set_sources(tensor: GgmlStruct, *sources: GgmlStruct) -> None:
    """Make ``tensor`` the result of an operation on ``sources``. The caller keeps them alive."""
    for index, source in enumerate(sources):
        tensor.set("src", source.address, index)


def set_float_params(tensor: GgmlStruct, *numbers: float) -> None:
    """Write an operation's parameters that are floats."""
    for index, number in enumerate(numbers):
        tensor.set("op_params", int(np.float32(number).view(np.int32)), index)


def pointer(struct: GgmlStruct) -> ctypes.c_void_p:
    """The argument for a struct in a call."""
    return ctypes.c_void_p(struct.address)


def compute_params(thread: int = 0, threads: int = 1, work: Bytes | None = None) -> GgmlStruct:
    """What ggml hands to each thread that computes an operation."""
    size, address = (work.nbytes, work.ctypes.data) if work is not None else (0, None)
    return GgmlStruct("ggml_compute_params", ith=thread, nth=threads, wsize=size, wdata=address)


def compute(operation: Callable[..., object], result: GgmlStruct, threads: int = 1) -> None:
    """Let so many threads compute ``result``."""
    work = np.empty(_WORK_BYTES, np.uint8)  # As in llama.cpp, it has what other operations have left.

    def run(thread: int) -> None:
        params = compute_params(thread, threads, work)
        operation(pointer(params), pointer(result))

    others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
