"""Which weights a worker repacks: it sees buffers and tensors, and not what they are for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from tailrace.engine.kernels.proofs.repacked_products import Numbers, multiply
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import pointer, weight_tensor
from tailrace.engine.native_libs.ggml_layout import GgmlStruct, ggml_constant

_RANDOM = np.random.default_rng(5)
_WEIGHTS = quantize(_RANDOM.standard_normal((32, 64)).astype(np.float32), Kind.Q4_1)
_ACTIVATIONS = _RANDOM.standard_normal((3, 64)).astype(np.float32)
#: Addresses of buffers, which nothing reads.
_WEIGHT_BUFFER, _CACHE = 0x1000, 0x2000

_Capacity = ctypes.CFUNCTYPE(ctypes.c_int64)
_BUFFER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_SET = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_MEMSET = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint8, ctypes.c_size_t, ctypes.c_size_t)
_GRAPH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Worker:
    """The kernels of a worker. ``capacity`` is what repacked weights may take, ``called`` what upstream was asked."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.capacity = 1 << 20
        self.called: list[str] = []
        self.upstream: dict[str, ctypes._CData] = {
            "ggml_backend_buffer_free": _BUFFER(lambda _: self.called.append("free")),
            "ggml_backend_tensor_set": _SET(lambda *_: self.called.append("set")),
            "ggml_backend_tensor_memset": _MEMSET(lambda *_: self.called.append("memset")),
            "ggml_graph_compute": _GRAPH(lambda *_: 0),
        }

    def product(self, weights: npt.NDArray[np.uint8] = _WEIGHTS, buffer: int = _WEIGHT_BUFFER) -> Numbers:
        """By repacked weights; NaN where these aren't repacked."""
        return multiply(self.library, Kind.Q4_1, weights, _ACTIVATIONS, threads=1, usage=buffer)

    @property
    def bytes(self) -> int:
        return int(self.library.tailrace_kernels_served_bytes())

    def free(self, buffer: int) -> None:
        self.library.ggml_backend_buffer_free(ctypes.c_void_p(buffer))

    def compute(self, *operations: GgmlStruct) -> None:
        """Compute a graph of these operations, of which upstream computes none."""
        addresses = np.array([operation.address for operation in operations], np.uint64)
        graph = GgmlStruct("ggml_cgraph", n_nodes=len(operations), nodes=addresses.ctypes.data)
        plan = GgmlStruct("ggml_cplan", n_threads=1)
        self.library.ggml_graph_compute(pointer(graph), pointer(plan))


@pytest.fixture
def worker(library: ctypes.CDLL) -> Iterator[Worker]:
    library.tailrace_kernels_served_bytes.restype = ctypes.c_int64
    found = Worker(library)
    capacity = _Capacity(lambda: found.capacity)
    library.tailrace_kernels_serve_weights(capacity)
    with stand_in_pool(library, 1, found.upstream):
        yield found
        for buffer in (_WEIGHT_BUFFER, _CACHE):
            found.free(buffer)
    library.tailrace_kernels_serve_weights(None)


def result_in(buffer: int, operation: str = "GGML_OP_ADD") -> GgmlStruct:
    return GgmlStruct("ggml_tensor", op=ggml_constant(operation), buffer=buffer)


def test_weights_are_repacked_when_they_are_multiplied_with(worker: Worker) -> None:
    assert worker.bytes == 0
    found = worker.product()
    assert np.isfinite(found).all()
    assert worker.bytes == _WEIGHTS.nbytes
    assert np.array_equal(worker.product(), found)


def test_weights_beyond_the_capacity_stay_as_sent(worker: Worker) -> None:
    worker.capacity = _WEIGHTS.nbytes + 10
    assert np.isfinite(worker.product()).all()
    assert np.isnan(worker.product(_WEIGHTS.copy())).all()
    assert worker.bytes == _WEIGHTS.nbytes


def test_a_buffer_of_results_has_no_weights(worker: Worker) -> None:
    worker.compute(result_in(_CACHE))
    assert np.isnan(worker.product(buffer=_CACHE)).all()
    assert worker.bytes == 0


def test_a_view_is_no_result(worker: Worker) -> None:
    worker.compute(result_in(_WEIGHT_BUFFER, "GGML_OP_VIEW"), result_in(_CACHE))
    assert np.isfinite(worker.product()).all()


def test_copies_are_freed_with_their_buffer(worker: Worker) -> None:
    place = _WEIGHTS.copy()
    before = worker.product(place)
    worker.free(_WEIGHT_BUFFER)
    assert worker.called == ["free"]
    assert worker.bytes == 0
    place[:] = place[::-1]
    assert np.array_equal(worker.product(place), before[:, ::-1]), "the next engine's weights have the same address"


@pytest.mark.parametrize("change", ["set", "memset"])
def test_weights_that_change_are_no_longer_repacked(worker: Worker, change: str) -> None:
    tensor = weight_tensor(Kind.Q4_1, _WEIGHTS, _WEIGHT_BUFFER)
    assert np.isfinite(worker.product()).all()
    zero, size = ctypes.c_size_t(0), ctypes.c_size_t(64)
    if change == "set":
        worker.library.ggml_backend_tensor_set(pointer(tensor), None, zero, size)
    else:
        worker.library.ggml_backend_tensor_memset(pointer(tensor), ctypes.c_uint8(0), zero, size)
    assert worker.called == [change]
    assert worker.bytes == 0
    assert np.isnan(worker.product()).all()


def test_weights_may_come_in_parts_before_they_are_used(worker: Worker) -> None:
    tensor = weight_tensor(Kind.Q4_1, _WEIGHTS, _WEIGHT_BUFFER)
    for _ in range(2):
        worker.library.ggml_backend_tensor_set(pointer(tensor), None, ctypes.c_size_t(0), ctypes.c_size_t(64))
    assert np.isfinite(worker.product()).all()
