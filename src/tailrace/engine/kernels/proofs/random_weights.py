"""Random weights in every format that the kernels compute: bytes as a GGUF file has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import quantize

Bytes = npt.NDArray[np.uint8]

#: Where a block has 16-bit floats: its scale, and its minimum. All other bytes may have any value. A proof doesn't take
#: this from the library that it proves.
HALVES_AT: dict[GgmlType, tuple[int, ...]] = {
    GgmlType.Q4_0: (0,),
    GgmlType.Q4_1: (0, 2),
    GgmlType.Q5_0: (0,),
    GgmlType.Q5_1: (0, 2),
    GgmlType.Q8_0: (0,),
    GgmlType.IQ4_NL: (0,),
    GgmlType.MXFP4: (),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,),
    GgmlType.IQ4_XS: (0,),
}

#: Formats that aren't quantised, and how many of their numbers count as a block.
FLOATS = frozenset({GgmlType.F16, GgmlType.BF16})
_FLOATS = 32
#: Exponents of MXFP4's scales: 2^-16 to 2^-4.
_EXPONENTS = (112, 125)


def block_weights(ggml_type: GgmlType) -> int:
    """The weights of a block, as the kernels count blocks."""
    weights: int = GGML_QUANT_SIZES[ggml_type][0]
    return weights if weights > 1 else _FLOATS


def block_bytes(ggml_type: GgmlType) -> int:
    """The bytes of a block."""
    return block_weights(ggml_type) // int(GGML_QUANT_SIZES[ggml_type][0]) * type_bytes(ggml_type)


def type_bytes(ggml_type: GgmlType) -> int:
    """The bytes of what ggml counts as a block, which is one number of 16-bit floats."""
    size: int = GGML_QUANT_SIZES[ggml_type][1]
    return size


def random_weights(ggml_type: GgmlType, random: np.random.Generator, rows: int, columns: int) -> Bytes:
    """A matrix of random weights, shape (rows, bytes of a row). ``columns`` is a multiple of a block's weights."""
    if ggml_type in FLOATS:
        floats: Bytes = quantize(random.standard_normal((rows, columns)).astype(np.float32), ggml_type).view(np.uint8)
        return floats
    blocks = rows * columns // block_weights(ggml_type)
    raw = random.integers(0, 256, (blocks, block_bytes(ggml_type)), np.uint8)
    for at in HALVES_AT[ggml_type]:
        half = random.uniform(-0.1, 0.1, blocks).astype(np.float16)
        raw[:, at : at + 2] = half[:, None].view(np.uint8)
    if ggml_type == GgmlType.MXFP4:
        raw[:, 0] = random.integers(*_EXPONENTS, blocks, np.uint8)
    return raw.reshape(rows, -1)
