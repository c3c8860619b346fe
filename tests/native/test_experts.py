"""Products by expert: what a hostile graph may hold, and which weights they are computed with."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from tailrace.engine.kernels.proofs.expert_products import Ids, multiply_by_expert
from tailrace.engine.kernels.proofs.graphs import compute_graph
from tailrace.engine.kernels.proofs.random_weights import random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, multiply, repacking
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    COMPUTE,
    compute_params,
    id_tensor,
    pointer,
    set_sources,
    tensor_of,
)
from tailrace.engine.native_libs.ggml_layout import ggml_constant

RANDOM = np.random.default_rng(5)
WEIGHTS = random_weights(Kind.Q4_0, RANDOM, 4 * 32, 64).reshape(4, 32, -1)
ACTIVATIONS = RANDOM.standard_normal((3, 1, 64)).astype(np.float32)
IDS = np.array([[2, 0], [0, 3], [1, 1]], np.int32)


@pytest.fixture
def experts(library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Kernels beside a pool of one thread, which repack weights."""
    with stand_in_pool(library, 1), repacking(library, 1 << 20):
        yield library


def product(library: ctypes.CDLL, ids: Ids = IDS, *, usage: int = 1) -> Numbers:
    """NaN where nothing is computed."""
    return multiply_by_expert(library, Kind.Q4_0, WEIGHTS, ACTIVATIONS[: len(ids)], ids, threads=1, usage=usage)


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1, -(2**31)])
def test_an_expert_that_does_not_exist_gives_nan_and_leaves_the_others(experts: ctypes.CDLL, wrong: int) -> None:
    right = product(experts)
    ids = IDS.copy()
    ids[1, 0] = wrong
    found = product(experts, ids)
    assert np.isfinite(right).all()
    assert np.isnan(found[1, 0]).all()
    found[1, 0] = right[1, 0]
    assert np.array_equal(found, right)
    assert np.isnan(product(experts, np.full((2, 2), wrong, np.int32))).all()


def test_results_do_not_depend_on_the_number_of_threads(library: ctypes.CDLL) -> None:
    found = []
    for threads in (1, 2, 5):
        with stand_in_pool(library, threads), repacking(library, 1 << 20):
            found.append(multiply_by_expert(library, Kind.Q4_0, WEIGHTS, ACTIVATIONS, IDS, threads=threads))
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_an_expert_has_the_results_of_the_same_dense_matrix(experts: ctypes.CDLL) -> None:
    found = product(experts)
    matrices = [matrix.copy() for matrix in WEIGHTS]
    for token, chosen in enumerate(IDS):
        for used, expert in enumerate(chosen):
            dense = multiply(experts, Kind.Q4_0, matrices[expert], ACTIVATIONS[token], threads=1)
            assert np.array_equal(found[token, used], dense[0])


def test_only_weights_that_fit_are_repacked(library: ctypes.CDLL) -> None:
    library.tailrace_kernels_repacked_bytes.restype = ctypes.c_int64
    with stand_in_pool(library, 1):
        with repacking(library, WEIGHTS.nbytes - 1):
            assert np.isnan(product(library)).all()
        with repacking(library, WEIGHTS.nbytes):
            assert np.isnan(product(library, usage=COMPUTE)).all()
            assert library.tailrace_kernels_repacked_bytes(1) == 0
            assert np.isfinite(product(library)).all()
            assert library.tailrace_kernels_repacked_bytes(1) == WEIGHTS.nbytes
            # Seen as one matrix, or as experts of another size, they aren't what was repacked.
            assert np.isnan(multiply(library, Kind.Q4_0, WEIGHTS[0], ACTIVATIONS[:, 0], threads=1)).all()
            assert np.isnan(
                multiply_by_expert(library, Kind.Q4_0, WEIGHTS[:3], ACTIVATIONS, IDS.clip(0, 2), threads=1)
            ).all()


def test_another_threads_graph_has_no_plan(library: ctypes.CDLL) -> None:
    """Only threads with the planned graph's work memory compute its operations together."""
    scores, order = np.array([[1, 3, 2, 4]], np.float32), np.zeros((1, 4), np.int32)
    sorting, chosen, source = id_tensor(order), id_tensor(order[:, :2]), tensor_of(scores[None, None])
    sorting.set("op", ggml_constant("GGML_OP_ARGSORT"))
    sorting.set("op_params", ggml_constant("GGML_SORT_ORDER_DESC"))
    chosen.set("op", ggml_constant("GGML_OP_VIEW"))
    set_sources(sorting, source)
    set_sources(chosen, sorting)
    library.ggml_cpu_extra_compute_forward.restype = ctypes.c_bool
    answers: list[bool] = []

    def compute_elsewhere() -> None:
        work = np.zeros(1 << 10, np.uint8)
        params = compute_params(0, 1, work)
        answers.append(library.ggml_cpu_extra_compute_forward(pointer(params), pointer(sorting)))

    compute_graph(library, [sorting, chosen], [(source,), (sorting,)], threads=1, meanwhile=compute_elsewhere)
    assert answers == [False]
    assert order.tolist() == [[3, 1, 0, 0]]
