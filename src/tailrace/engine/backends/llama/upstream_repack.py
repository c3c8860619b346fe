"""Which orders of weights llama.cpp's own CPU kernels have for a tensor: its extra buffer types, asked one by one.

The conditions are llama.cpp's (format, rows, what the CPU can do), so it is asked the way it asks itself when it loads
a model. The binding doesn't know these functions.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from llama_cpp._ggml import libggml as ggml

from tailrace.models.model_header import Tensor

#: ``GGML_BACKEND_DEVICE_TYPE_CPU``, ``GGML_TYPE_F32`` and ``GGML_TYPE_I32``.
_CPU, _F32, _I32 = 0, 0, 26
#: Bytes of descriptions of a few tensors, and tokens of the product that is asked about, as in llama.cpp.
_ROOM, _TOKENS = 1 << 16, 512


class _Params(ctypes.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Head(ctypes.Structure):
    """The beginning of ``struct ggml_tensor``."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p))


def order_for(tensor: Tensor, *, experts: bool) -> int | None:
    """The buffer type that has ``tensor`` in an order of its own for products (``experts``: of some of its matrices
    each token); None where llama.cpp computes it as the file has it.
    """
    try:
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except (KeyError, ValueError):
        return None
    if min(tensor.sizes) < 1 or tensor.sizes[0] % block:
        return None  # llama.cpp refuses the file; asked about it, it would end the process.
    return _order(tensor.kind, tensor.sizes, experts)


@cache
def _order(kind: int, sizes: tuple[int, ...], experts: bool) -> int | None:
    device = _function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(_CPU)
    supports = _function("ggml_backend_dev_supports_op", ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
    allocate = _function("ggml_backend_buft_alloc_buffer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    free = _function("ggml_backend_buffer_free", None, ctypes.c_void_p)
    for kept in _extra_types(device):
        context = _function("ggml_init", ctypes.c_void_p, _Params)(_Params(_ROOM, None, True))
        weights, product = _product(context, kind, sizes, experts)
        # Of no size: only its type is looked at.
        head = _Head.from_address(weights)
        head.buffer = buffer = allocate(kept, 0)
        found = supports(device, product)
        head.buffer = None
        free(buffer)
        _function("ggml_free", None, ctypes.c_void_p)(context)
        if found:
            return kept
    return None


def _extra_types(device: int) -> list[int]:
    """llama.cpp's buffer types for weights in another order, in its order of preference."""
    registry = _function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(device)
    address = _function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
        registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return []
    types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    found: list[int] = []
    while types and (each := types[len(found)]):
        found.append(each)
    return found


def _product(context: int, kind: int, sizes: tuple[int, ...], experts: bool) -> tuple[int, int]:
    """A tensor of weights, and the operation that multiplies with it."""
    new = _function(
        "ggml_new_tensor", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64)
    )

    def tensor(kind: int, *sizes: int) -> int:
        return int(new(context, kind, len(sizes), (ctypes.c_int64 * len(sizes))(*sizes)))

    weights = tensor(kind, *sizes)
    if not experts:
        multiply = _function("ggml_mul_mat", ctypes.c_void_p, *[ctypes.c_void_p] * 3)
        return weights, multiply(context, weights, tensor(_F32, sizes[0], _TOKENS, *sizes[2:]))
    multiply = _function("ggml_mul_mat_id", ctypes.c_void_p, *[ctypes.c_void_p] * 4)
    return weights, multiply(context, weights, tensor(_F32, sizes[0], 1, _TOKENS), tensor(_I32, 1, _TOKENS))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml, with its types."""
    address = ctypes.cast(getattr(ggml, name), ctypes.c_void_p).value
    assert address is not None
    return ctypes.CFUNCTYPE(result, *arguments)(address)
