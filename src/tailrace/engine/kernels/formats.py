"""The weight formats that the kernels compute, as the one table in C has them (``formats.h``)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

from gguf import GGMLQuantizationType

#: Numbers of a row of the table, see ``tailrace_kernels_format``.
_ROW = ctypes.c_int32 * 8


class WeightFormat(NamedTuple):
    """One format."""

    ggml_type: GGMLQuantizationType
    block_bytes: int
    block_weights: int
    activation_type: GGMLQuantizationType  #: what llama.cpp quantises activations to, for weights in the file's order
    in_file_order: bool  #: the kernels multiply with weights in the file's order
    repacked: bool  #: they multiply with repacked weights
    scale_at: int  #: the 16-bit scale's offset in a block
    minimum_at: int | None  #: the 16-bit minimum's offset, in formats with one

    @property
    def name(self) -> str:
        """GGUF's name of the format."""
        return str(self.ggml_type.name)


def formats_of(library: ctypes.CDLL) -> list[WeightFormat]:
    """The table of a loaded library of kernels."""
    library.tailrace_kernels_format.restype = ctypes.c_bool
    formats: list[WeightFormat] = []
    row = _ROW()
    while library.tailrace_kernels_format(len(formats), row):
        formats.append(
            WeightFormat(
                GGMLQuantizationType(row[0]),
                row[1],
                row[2],
                GGMLQuantizationType(row[3]),
                bool(row[4]),
                bool(row[5]),
                row[6],
                row[7] if row[7] >= 0 else None,
            )
        )
    return formats


def read_formats(path: Path) -> list[WeightFormat]:
    """The table of the library at ``path``."""
    return formats_of(ctypes.CDLL(str(path)))
