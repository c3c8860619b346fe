"""Which weights are repacked and when, and the maxima of the logits that repacked weights give."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from tailrace.engine.kernels.proofs.random_weights import block_weights, random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, multiply, repacked_types, repacking
from tailrace.engine.kernels.proofs.row_maxima import take_row_maxima
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    COMPUTE,
)


@pytest.fixture
def repacking_library(library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Kernels beside a pool of one thread."""
    library.tailrace_kernels_repacked_bytes.restype = ctypes.c_int64
    with stand_in_pool(library, 1):
        yield library
        for model in (1, 2):
            library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(0))
            library.tailrace_kernels_free_repacked(model)


RANDOM = np.random.default_rng(5)


WEIGHTS = quantize(RANDOM.standard_normal((32, 64)).astype(np.float32), Kind.Q4_1)


ACTIVATIONS = RANDOM.standard_normal((3, 64)).astype(np.float32)


def product(library: ctypes.CDLL, weights: npt.NDArray[np.uint8] = WEIGHTS, *, usage: int = 1) -> Numbers:
    """By repacked weights; NaN where these aren't repacked."""
    return multiply(library, Kind.Q4_1, weights, ACTIVATIONS, threads=1, usage=usage)


def load(library: ctypes.CDLL, model: int, budget: int, weights: npt.NDArray[np.uint8] = WEIGHTS) -> Numbers:
    """The first product of a model, while it is loaded."""
    library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(budget))
    found = product(library, weights)
    library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(0))
    return found


@pytest.mark.parametrize("budget", [0, WEIGHTS.nbytes - 1])
def test_weights_beyond_the_budget_are_not_repacked(repacking_library: ctypes.CDLL, budget: int) -> None:
    assert np.isnan(load(repacking_library, 1, budget)).all()
    assert np.isnan(product(repacking_library)).all()
    assert repacking_library.tailrace_kernels_repacked_bytes(1) == 0


def test_weights_are_repacked_only_while_their_model_is_loaded(repacking_library: ctypes.CDLL) -> None:
    assert np.isnan(product(repacking_library)).all()
    found = load(repacking_library, 1, 1 << 20)
    assert repacking_library.tailrace_kernels_repacked_bytes(1) == WEIGHTS.nbytes
    assert np.array_equal(product(repacking_library), found)
    assert np.isnan(product(repacking_library, WEIGHTS.copy())).all()


def test_tensors_that_are_not_weights_are_not_repacked(repacking_library: ctypes.CDLL) -> None:
    repacking_library.tailrace_kernels_set_repack_budget(1, ctypes.c_int64(1 << 20))
    assert np.isnan(product(repacking_library, usage=COMPUTE)).all()
    assert np.isnan(product(repacking_library, WEIGHTS[:12].copy())).all()  # No whole panel.
    assert repacking_library.tailrace_kernels_repacked_bytes(1) == 0


def test_the_last_rows_of_a_matrix_are_a_panel_with_zeros(repacking_library: ctypes.CDLL) -> None:
    whole = load(repacking_library, 1, 1 << 20)
    found = load(repacking_library, 2, 1 << 20, WEIGHTS[:24].copy())
    assert np.array_equal(found, whole[:, :24])
    assert repacking_library.tailrace_kernels_repacked_bytes(1) == WEIGHTS.nbytes
    assert repacking_library.tailrace_kernels_repacked_bytes(2) == WEIGHTS[:32].nbytes


def test_another_model_can_have_weights_at_the_same_address(repacking_library: ctypes.CDLL) -> None:
    place = WEIGHTS.copy()
    kept = WEIGHTS.copy()
    load(repacking_library, 1, 1 << 20, place)
    other = load(repacking_library, 2, 1 << 20, kept)
    repacking_library.tailrace_kernels_free_repacked(1)
    place[:] = place[::-1]
    assert np.isnan(product(repacking_library, place)).all()
    found = load(repacking_library, 1, 1 << 20, place)
    assert np.array_equal(found, other[:, ::-1])
    assert np.array_equal(product(repacking_library, kept), other)


@pytest.fixture
def prefetching(repacking_library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Kernels whose prefetching can be chosen."""
    yield repacking_library
    repacking_library.tailrace_kernels_prefetch_as_from(-1)


def test_results_do_not_depend_on_where_weights_are_prefetched_from(prefetching: ctypes.CDLL) -> None:
    random = np.random.default_rng(6)
    for kind in repacked_types(prefetching):
        columns = 3 * block_weights(kind)
        weights, inputs = random_weights(kind, random, 32, columns), random.standard_normal((9, columns), np.float32)
        with repacking(prefetching, 2 * weights.nbytes):
            for tokens in (1, 4, 5, 9):
                found = []
                for source in range(-1, 3):
                    prefetching.tailrace_kernels_prefetch_as_from(source)
                    found.append(multiply(prefetching, kind, weights, inputs[:tokens], threads=1))
                assert np.isfinite(found[0]).all()
                assert all(np.array_equal(each, found[0]) for each in found), (kind, tokens)


def test_row_maxima_are_recorded_of_logits_without_nan(repacking_library: ctypes.CDLL) -> None:
    def n_recorded(activations: Numbers = ACTIVATIONS, name: bytes = b"result_output") -> int | None:
        """Of how many tokens."""
        multiply(repacking_library, Kind.Q4_1, WEIGHTS, activations, threads=1, name=name)
        found = take_row_maxima(repacking_library)
        return None if found is None else len(found)

    load(repacking_library, 1, 1 << 20)
    assert take_row_maxima(repacking_library) is not None
    assert take_row_maxima(repacking_library) is None  # They are returned once.
    assert n_recorded() == 3
    assert n_recorded(name=b"result_output_2") is None
    assert n_recorded(np.concatenate([ACTIVATIONS] * 22)) is None
    broken = WEIGHTS.copy()
    broken[5, :2] = np.array([np.nan], np.float16).view(np.uint8)
    assert np.isnan(load(repacking_library, 2, 1 << 20, broken)[:, 5]).all()
    assert take_row_maxima(repacking_library) is None
    assert n_recorded() == 3
    # Another kernel computes the logits: the last maxima aren't theirs.
    multiply(repacking_library, Kind.Q4_1, WEIGHTS.copy(), ACTIVATIONS, threads=1)
    assert take_row_maxima(repacking_library) is None
