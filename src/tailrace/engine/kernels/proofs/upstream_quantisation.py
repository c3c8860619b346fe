"""llama.cpp's quantisation of activations in NumPy, which the kernels call for weights in the file's order."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType

from tailrace.engine.native_libs.ggml_layout import GgmlStruct

_FROM_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_TYPE_TRAITS = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)


def quantise(ggml_type: GgmlType, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The bytes of ``numbers`` in Q8_0, Q8_1 or Q8_K."""
    size = 256 if ggml_type == GgmlType.Q8_K else 32
    blocks = numbers.reshape(-1, size)
    largest = np.abs(blocks).max(1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest != 0)
    quants = np.rint(blocks * inverse).astype(np.int8)
    if ggml_type == GgmlType.Q8_K:
        scale = np.divide(np.float32(1), inverse, out=np.zeros_like(largest), where=largest != 0)
        sums = quants.reshape(-1, 16, 16).sum(2, dtype=np.int16)
        parts = [scale.view(np.uint8), quants.view(np.uint8), sums.view(np.uint8)]
        return np.concatenate(parts, 1)
    scale = largest / np.float32(127)
    parts = [scale.astype(np.float16).view(np.uint8)]
    if ggml_type == GgmlType.Q8_1:
        sums = (scale * quants.sum(1, keepdims=True, dtype=np.float32)).astype(np.float16)
        parts.append(sums.view(np.uint8))
    return np.concatenate([*parts, quants.view(np.uint8)], 1)


class UpstreamQuantisation:
    """``ggml_get_type_traits_cpu`` for the types of activations. It is kept alive while the kernels may call it."""

    def __init__(self) -> None:
        self._kept: list[object] = []
        self._traits = {int(each): self._traits_of(each) for each in (GgmlType.Q8_0, GgmlType.Q8_1, GgmlType.Q8_K)}
        self.functions: dict[str, ctypes._CData] = {
            "ggml_get_type_traits_cpu": _TYPE_TRAITS(lambda number: self._traits[number].address)
        }

    def _traits_of(self, ggml_type: GgmlType) -> GgmlStruct:
        def from_float(numbers: int, out: int, count: int) -> None:
            source = np.ctypeslib.as_array((ctypes.c_float * count).from_address(numbers))
            found = quantise(ggml_type, source)
            ctypes.memmove(out, found.ctypes.data, found.nbytes)

        function = _FROM_FLOAT(from_float)
        self._kept.append(function)
        return GgmlStruct("ggml_type_traits_cpu", from_float=ctypes.cast(function, ctypes.c_void_p).value)
