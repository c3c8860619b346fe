"""Products of the greatest quants with the greatest activations: sums in few bits must not overflow.

Random numbers, as the proofs have them, hardly ever add up to the limits of 16 bits.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from kernel_formats import ACTIVATIONS_OF, REPACKED
from tailrace.engine.kernels.proofs.products import multiply_in_file_order
from tailrace.engine.kernels.proofs.random_weights import HALVES_AT, Bytes, block_bytes, block_weights
from tailrace.engine.kernels.proofs.repacked_products import multiply, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool

#: Bytes of quants with the least and the greatest of each encoding.
_FILLS = np.array([0x00, 0x0F, 0x77, 0x7F, 0x80, 0x88, 0xF0, 0xFF] * 2, np.uint8)
_COLUMNS = 512
#: Of the sum of all magnitudes. An overflow of 16 bits changes a sum by more.
_TOLERANCE = 1e-3


def _weights(kind: Kind) -> Bytes:
    """A row for each fill, with scales of 1."""
    raw = np.repeat(_FILLS, _COLUMNS // block_weights(kind) * block_bytes(kind))
    blocks = raw.reshape(-1, block_bytes(kind))
    for at in HALVES_AT[kind]:
        blocks[:, at : at + 2] = np.array([1], np.float16).view(np.uint8)
    if kind == Kind.MXFP4:
        blocks[:, 0] = 128
    return blocks.reshape(len(_FILLS), -1)


def _activations(kind: Kind, signs: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> Bytes:
    """Quants of 127 with a scale of 1, as llama.cpp has them in file order."""
    size = 256 if kind == Kind.Q8_K else 32
    quants = (127 * signs).astype(np.int8).reshape(-1, size)
    scale = np.ones((len(quants), 1), np.float32 if size == 256 else np.float16)
    parts = [scale.view(np.uint8)]
    if kind == Kind.Q8_1:
        parts.append(quants.sum(1, dtype=np.int32, keepdims=True).astype(np.float16).view(np.uint8))
    parts.append(quants.view(np.uint8))
    if size == 256:
        parts.append(quants.reshape(len(quants), 16, 16).sum(2, dtype=np.int16).view(np.uint8))
    return np.ascontiguousarray(np.concatenate(parts, 1))


def _signs(pattern: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    signs = np.ones((5, _COLUMNS), np.int8)
    if pattern == "minus":
        signs[:] = -1
    elif pattern == "both":
        signs[:, 16:] = -1
    return signs


@pytest.mark.parametrize("pattern", ["plus", "minus", "both"])
@pytest.mark.parametrize("kind", ACTIVATIONS_OF, ids=lambda kind: kind.name)
def test_no_sum_overflows(library: ctypes.CDLL, kind: Kind, pattern: str) -> None:
    weights, signs = _weights(kind), _signs(pattern)
    values = dequantize(weights, kind).astype(np.float64)
    expected = 127.0 * signs @ values.T
    limit = _TOLERANCE * 127 * np.abs(values).sum(1)
    with stand_in_pool(library):
        activation_type = ACTIVATIONS_OF[kind]
        found = multiply_in_file_order(library, kind, weights, activation_type, _activations(activation_type, signs), 5)
        assert (np.abs(found - expected) <= limit).all()
        if kind not in REPACKED:
            return
        with repacking(library, 2 * weights.nbytes):
            found = multiply(library, kind, weights, 127 * signs.astype(np.float32))
        assert (np.abs(found - expected) <= limit).all()
