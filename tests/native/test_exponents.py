"""Scales of MXFP4 are powers of two from 2^-127 to 2^128, of which the least are subnormal."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from tailrace.engine.kernels.proofs.products import multiply_in_file_order
from tailrace.engine.kernels.proofs.repacked_products import multiply, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool

#: One for each row of a group.
EXPONENTS = np.array([0, 1, 2, 3, 64, 126, 127, 128, 129, 200, 252, 253, 254, 255, 0, 255], np.uint8)
COLUMNS = 64
#: Activations that are rounded to 8 bits without a loss: with the first, no product of the largest scales overflows.
LEVELS = (127 * 2.0**-20, 127.0)


def mxfp4_weights() -> npt.NDArray[np.uint8]:
    """Rows of the weight 1, or -1 in the last two, times the scale."""
    weights = np.full((len(EXPONENTS), COLUMNS // 32, 17), 0x11, np.uint8)
    weights[-2:] = 0x99
    weights[:, :, 0] = EXPONENTS[:, None]
    return weights.reshape(len(EXPONENTS), -1)


def expected(weights: npt.NDArray[np.uint8], level: float) -> npt.NDArray[np.float32]:
    sums = dequantize(weights, Kind.MXFP4).astype(np.float64).sum(1)
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float32] = (sums * level).astype(np.float32)
    return found


def test_all_exponents_count_as_in_gguf(library: ctypes.CDLL) -> None:
    weights = mxfp4_weights()
    for level in LEVELS:
        activations = np.full((3, COLUMNS), level, np.float32)
        with stand_in_pool(library), repacking(library, 2 * weights.nbytes):
            repacked = multiply(library, Kind.MXFP4, weights, activations)
        scale = np.frombuffer(np.float16(level / 127).tobytes(), np.uint8)
        blocks = np.concatenate([scale, np.full(32, 127, np.uint8)])
        in_file_order = multiply_in_file_order(
            library, Kind.MXFP4, weights, Kind.Q8_0, np.tile(blocks, (3, COLUMNS // 32)), 3
        )
        right = np.tile(expected(weights, level), (3, 1))
        assert np.array_equal(repacked, right)
        # A sum across lanes may overflow on its way, in both directions.
        assert np.array_equal(in_file_order[np.isfinite(right)], right[np.isfinite(right)])
        assert not np.isfinite(in_file_order[~np.isfinite(right)]).any()
