"""Random weights in each format of GGUF, as the bytes of a file."""

from __future__ import annotations

import functools
from typing import NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType

Bytes = npt.NDArray[np.uint8]


class _Scales(NamedTuple):
    """Where a block has its 16-bit floats. All other bytes of a block may have any value."""

    scale: int
    minimum: int = -1  #: -1: the format has none
    minimum_of_scale: float = 0.0  #: the minimum with which the weights' mean is 0, in scales


_SCALES: dict[GgmlType, _Scales] = {
    GgmlType.Q4_0: _Scales(0),
    GgmlType.Q4_1: _Scales(0, 2, -7.5),
    GgmlType.Q5_0: _Scales(0),
    GgmlType.Q5_1: _Scales(0, 2, -15.5),
    GgmlType.Q8_0: _Scales(0),
    GgmlType.Q2_K: _Scales(80, 82, 1.5),
    GgmlType.Q3_K: _Scales(108),
    GgmlType.Q4_K: _Scales(0, 2, 7.5),
    GgmlType.Q5_K: _Scales(0, 2, 15.5),
    GgmlType.Q6_K: _Scales(208),
    GgmlType.IQ4_NL: _Scales(0),
    GgmlType.IQ4_XS: _Scales(0),
}
#: Formats whose bytes are the weights themselves.
_PLAIN = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
#: Formats of files with two formats: of most matrices, and of MORE_BITS.
_MIXTURES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
#: Name suffixes of the matrices that have more bits in such files.
_MORE_BITS = ("output.weight", "attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight")

#: Names of formats that a model may have.
FORMATS = (*(kind.name for kind in (*_SCALES, GgmlType.MXFP4, *_PLAIN)), *_MIXTURES)


def file_type(weight_format: str) -> gguf.LlamaFileType:
    """What a file with matrices of this format reports of itself."""
    for name in ("ALL_" + weight_format, "MOSTLY_" + weight_format, f"MOSTLY_{weight_format}_M"):
        if name in gguf.LlamaFileType.__members__:
            return gguf.LlamaFileType[name]
    return gguf.LlamaFileType.MOSTLY_MXFP4_MOE


def matrix_format(weight_format: str, name: str, columns: int) -> GgmlType:
    """The format of the matrix ``name``: one whose blocks divide the row, as llama.cpp's converter chooses it."""
    most, more_bits = _MIXTURES.get(weight_format, (weight_format, weight_format))
    kind = GgmlType[more_bits if name.endswith(_MORE_BITS) else most]
    for fitting in (kind, GgmlType.Q8_0, GgmlType.F16):
        if columns % gguf.GGML_QUANT_SIZES[fitting][0] == 0:
            return fitting
    raise AssertionError("every row is a whole number of 16-bit floats")


def row_bytes(kind: GgmlType, columns: int) -> int:
    """The bytes of a row of this many weights."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    return int(columns // weights * size)


def random_rows(kind: GgmlType, random: np.random.Generator, rows: int, columns: int, scale: float = 1.0) -> Bytes:
    """Weights of mean 0, shape (rows, bytes of a row). Outputs are about as large as the inputs times ``scale``."""
    deviation = scale * columns**-0.5
    if kind in _PLAIN:
        numbers = random.standard_normal((rows, columns), np.float32) * np.float32(deviation)
        return np.asarray(gguf.quants.quantize(numbers, kind)).view(np.uint8).reshape(rows, -1)
    blocks = rows * columns // gguf.GGML_QUANT_SIZES[kind][0]
    raw = random.integers(0, 256, (blocks, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    # A format whose range has one more number below 0 than above has a mean of 0 with both signs of the scale.
    _set_scale(kind, raw, deviation / _deviation(kind) * random.choice(np.array([-1.0, 1.0]), blocks))
    return raw.reshape(rows, -1)


def _set_scale(kind: GgmlType, raw: Bytes, scale: npt.NDArray[np.float64]) -> None:
    if kind is GgmlType.MXFP4:
        # The first byte is an exponent: 128 is 1.
        raw[:, 0] = 128 + np.rint(np.log2(np.abs(scale)))
        return
    places = _SCALES[kind]
    _set_half(raw, places.scale, scale)
    if places.minimum >= 0:
        _set_half(raw, places.minimum, scale * places.minimum_of_scale)


def _set_half(raw: Bytes, at: int, values: npt.NDArray[np.float64]) -> None:
    raw[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


@functools.cache
def _deviation(kind: GgmlType) -> float:
    """The standard deviation of weights whose scale is 1."""
    raw = np.random.default_rng(0).integers(0, 256, (256, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    _set_scale(kind, raw, np.ones(len(raw)))
    return float(np.std(gguf.quants.dequantize(raw, kind)))
