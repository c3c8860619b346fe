"""The weight formats and the types of the KV cache that the kernels compute, as their tables in C have them
(``formats.h``, ``attention/cache_types.h``).
"""

from __future__ import annotations

import ctypes
import itertools
from typing import NamedTuple

#: Numbers of a row of the table, see ``tailrace_kernels_format``.
_ROW = ctypes.c_int32 * 9


class WeightFormat(NamedTuple):
    """One format. Types are ggml's numbers, ``GGMLQuantizationType`` in gguf."""

    ggml_type: int
    block_bytes: int
    block_weights: int
    activation_type: int  #: what llama.cpp quantises activations to, for weights in the file's order
    in_file_order: bool  #: the kernels multiply with weights in the file's order
    repacked: bool  #: they multiply with repacked weights
    scale_at: int  #: the scale's offset in a block
    minimum_at: int | None  #: the 16-bit minimum's offset, in formats with one
    scale_bytes: int  #: 2 for a 16-bit float, 1 for the exponent of a power of two

    @property
    def name(self) -> str:
        """GGUF's name of the format."""
        # Here, because gguf imports numpy, which makes threads: the engine isn't bound to its CPUs when it loads this.
        from gguf import GGMLQuantizationType

        return str(GGMLQuantizationType(self.ggml_type).name)


def formats_of(library: ctypes.CDLL) -> list[WeightFormat]:
    """The table of a loaded library of kernels."""
    library.tailrace_kernels_format.restype = ctypes.c_bool
    formats: list[WeightFormat] = []
    row = _ROW()
    while library.tailrace_kernels_format(len(formats), row):
        ggml_type, size, weights, activations, in_file_order, repacked, scale_at, minimum_at, scale_bytes = row
        scales = scale_at, minimum_at if minimum_at >= 0 else None, scale_bytes
        formats.append(
            WeightFormat(ggml_type, size, weights, activations, bool(in_file_order), bool(repacked), *scales)
        )
    return formats


def cache_types_of(library: ctypes.CDLL) -> list[str]:
    """The types of K and V that a loaded library computes attention over, by the names of the setting."""
    from gguf import GGMLQuantizationType

    library.tailrace_kernels_cache_type.restype = ctypes.c_int
    numbers = map(library.tailrace_kernels_cache_type, itertools.count())
    known = itertools.takewhile(lambda number: number >= 0, numbers)
    return [str(GGMLQuantizationType(number).name).lower() for number in known]
