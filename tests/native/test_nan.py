"""Products keep NaN and infinity of the activations visible."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from kernel_formats import ACTIVATIONS_OF, REPACKED
from tailrace.engine.kernels.proofs.products import multiply_in_file_order
from tailrace.engine.kernels.proofs.random_weights import random_weights
from tailrace.engine.kernels.proofs.repacked_products import multiply, repacked_types, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    compute_params,
    pointer,
    set_sources,
    tensor_of,
    weight_tensor,
)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 31, 250])
@pytest.mark.parametrize("kind", REPACKED)
def test_a_token_with_nan_has_no_finite_result_of_repacked_weights(
    library: ctypes.CDLL, kind: Kind, place: int, damage: float
) -> None:
    """However many tokens there are, and though their activations are rounded to 8 bits."""
    random = np.random.default_rng(7)
    weights = random_weights(kind, random, 32, 256)
    for n_tokens in (1, 3, 12, 48):
        activations = random.standard_normal((n_tokens, 256)).astype(np.float32)
        activations[n_tokens // 2, place] = damage
        with stand_in_pool(library), repacking(library, 2 * weights.nbytes):
            found = multiply(library, kind, weights, activations)
        if kind not in repacked_types(library):
            assert np.isnan(found).all()  # Left to upstream.
            continue
        damaged = np.arange(n_tokens) == n_tokens // 2
        assert not np.isfinite(found[damaged]).any()
        assert np.isfinite(found[~damaged]).all()


@pytest.mark.parametrize("place", [0, 17, 255])
@pytest.mark.parametrize("kind", ACTIVATIONS_OF)
def test_a_token_with_nan_has_no_finite_result_in_file_order(library: ctypes.CDLL, kind: Kind, place: int) -> None:
    """llama.cpp rounds the activations, which makes a number of NaN."""
    weights = random_weights(kind, np.random.default_rng(7), 24, 256)
    activations = np.zeros((3, 256), np.float32)
    activations[1, place] = np.nan
    found = np.zeros((3, 24), np.float32)
    own, inputs, result = weight_tensor(kind, weights), tensor_of(activations[None, None]), tensor_of(found[None, None])
    set_sources(result, own, inputs)
    library.ggml_compute_forward_mul_mat_tiled.restype = ctypes.c_bool

    def offered() -> None:
        params = compute_params()
        assert not library.ggml_compute_forward_mul_mat_tiled(pointer(params), pointer(result))
        rounded = np.zeros((3, 4096), np.uint8)
        multiply_in_file_order(library, kind, weights, ACTIVATIONS_OF[kind], rounded, 3, out=found)

    offered()
    assert np.isnan(found[1]).all()
    assert not found[[0, 2]].any()
    activations[1, place] = 0
    offered()
    assert not found.any()
