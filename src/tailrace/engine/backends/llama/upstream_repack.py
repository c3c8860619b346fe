"""Asks llama.cpp whether its CPU backend can repack a weight tensor, and into which of its extra buffer types.

The conditions are llama.cpp's (format, rows, instruction sets), so it is asked in the way in which it asks itself when
it loads a model. The binding doesn't declare these functions.
"""

from __future__ import annotations

import ctypes
from functools import cache

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tailrace.engine.backends.llama.ggml_function import ggml_function
from tailrace.errors import ConfigurationError
from tailrace.models.model_header import Tensor

#: ``GGML_BACKEND_DEVICE_TYPE_CPU``, ``GGML_TYPE_F32`` and ``GGML_TYPE_I32``.
_CPU, _F32, _I32 = 0, 0, 26
#: Bytes for the descriptions of a few tensors.
_CONTEXT_BYTES = 1 << 16
#: Tokens of the product that llama.cpp is asked about, as in its own loader.
_TOKENS = 512


class InitParams(ctypes.Structure):
    """``struct ggml_init_params`` of ggml.h. ``check_structs`` compares it with the library's."""

    _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _TensorHead(ctypes.Structure):
    """The beginning of ``struct ggml_tensor`` of ggml.h. ``check_structs`` compares it with the library's."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p))


def repack_buffer_type(tensor: Tensor, *, experts: bool) -> int | None:
    """llama.cpp's buffer type that repacks ``tensor`` for products; None where it computes the file's own layout.

    ``experts``: each token is multiplied with some of the tensor's matrices.
    """
    try:
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
    except (KeyError, ValueError):
        return None
    if min(tensor.dimensions) < 1 or tensor.dimensions[0] % block:
        return None  # llama.cpp refuses such a file. Asked about this tensor, it would end the process.
    return _buffer_type(tensor.ggml_type, tensor.dimensions, experts)


def tensor_buffer(tensor: int) -> int | None:
    """The buffer of the tensor at this address; None where it has none. Raises ConfigurationError for another ggml."""
    check_structs()
    found: int | None = _TensorHead.from_address(tensor).buffer
    return found


@cache
def check_structs() -> None:
    """Compare the declared structs with the library's, by ggml's own functions. Raises ConfigurationError.

    A context has to get the parameters' values, and a tensor that ggml puts into a buffer has to point to it.
    """
    context = ggml_function("ggml_init", ctypes.c_void_p, InitParams)(InitParams(_CONTEXT_BYTES, None, True))
    size = ggml_function("ggml_get_mem_size", ctypes.c_size_t, ctypes.c_void_p)(context)
    no_alloc = ggml_function("ggml_get_no_alloc", ctypes.c_bool, ctypes.c_void_p)(context)
    tensor = new_tensor(context, _I32, 4)
    buffer_type = ggml_function("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    buffer = ggml_function("ggml_backend_buft_alloc_buffer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
        buffer_type, 4096
    )
    base = ggml_function("ggml_backend_buffer_get_base", ctypes.c_void_p, ctypes.c_void_p)(buffer)
    put = ggml_function("ggml_backend_tensor_alloc", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    put(buffer, tensor, base)
    head = _TensorHead.from_address(tensor)
    agrees = (size, no_alloc, head.type, head.buffer) == (_CONTEXT_BYTES, True, _I32, buffer)
    ggml_function("ggml_backend_buffer_free", None, ctypes.c_void_p)(buffer)
    ggml_function("ggml_free", None, ctypes.c_void_p)(context)
    if not agrees:
        raise ConfigurationError(
            "this llama.cpp's ggml_init_params or ggml_tensor isn't the one that tailrace knows: "
            "install the version of llama-cpp-python that tailrace requires"
        )


@cache
def _buffer_type(ggml_type: int, dimensions: tuple[int, ...], experts: bool) -> int | None:
    check_structs()
    device = ggml_function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(_CPU)
    supports = ggml_function("ggml_backend_dev_supports_op", ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
    allocate = ggml_function("ggml_backend_buft_alloc_buffer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    free = ggml_function("ggml_backend_buffer_free", None, ctypes.c_void_p)
    for candidate in _extra_buffer_types(device):
        context = ggml_function("ggml_init", ctypes.c_void_p, InitParams)(InitParams(_CONTEXT_BYTES, None, True))
        weights, product = _product(context, ggml_type, dimensions, experts)
        # An empty buffer is enough: llama.cpp only looks at its type.
        head = _TensorHead.from_address(weights)
        head.buffer = buffer = allocate(candidate, 0)
        supported = supports(device, product)
        head.buffer = None
        free(buffer)
        ggml_function("ggml_free", None, ctypes.c_void_p)(context)
        if supported:
            return candidate
    return None


def _extra_buffer_types(device: int) -> list[int]:
    """The CPU backend's buffer types for repacked weights, in llama.cpp's order of preference."""
    registry = ggml_function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(device)
    address = ggml_function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
        registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return []
    types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    found: list[int] = []
    while types and (each := types[len(found)]):
        found.append(each)
    return found


def _product(context: int, ggml_type: int, dimensions: tuple[int, ...], experts: bool) -> tuple[int, int]:
    """A weight tensor and the operation that multiplies with it."""
    weights = new_tensor(context, ggml_type, *dimensions)
    if not experts:
        multiply = ggml_function("ggml_mul_mat", ctypes.c_void_p, *[ctypes.c_void_p] * 3)
        activations = new_tensor(context, _F32, dimensions[0], _TOKENS, *dimensions[2:])
        return weights, multiply(context, weights, activations)
    multiply = ggml_function("ggml_mul_mat_id", ctypes.c_void_p, *[ctypes.c_void_p] * 4)
    activations = new_tensor(context, _F32, dimensions[0], 1, _TOKENS)
    return weights, multiply(context, weights, activations, new_tensor(context, _I32, 1, _TOKENS))


def new_tensor(context: int, ggml_type: int, *dimensions: int) -> int:
    """A tensor's description in a context of ggml."""
    new = ggml_function(
        "ggml_new_tensor", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64)
    )
    return int(new(context, ggml_type, len(dimensions), (ctypes.c_int64 * len(dimensions))(*dimensions)))
