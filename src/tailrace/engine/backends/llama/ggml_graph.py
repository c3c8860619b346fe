"""Small graphs of ggml operations on one device, to measure how fast it computes and how long it takes to reach.

The binding declares none of these functions. Graphs of models are llama.cpp's own; nothing here touches them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tailrace.engine.backends.llama.devices import device_name, is_cpu
from tailrace.engine.backends.llama.ggml_function import ggml_function
from tailrace.engine.backends.llama.upstream_repack import InitParams, check_structs, new_tensor
from tailrace.engine.kernels import loader
from tailrace.errors import ModelError

#: ``GGML_TYPE_F32``, ``GGML_TYPE_I32`` and ``GGML_BACKEND_BUFFER_USAGE_WEIGHTS``.
F32, I32, _WEIGHTS = 0, 26, 1
#: Descriptions of tensors that one graph may have, and bytes of each: more than ``sizeof(struct ggml_tensor)``.
_MAX_TENSORS, _TENSOR_BYTES = 2048, 512
#: A byte of weights. As a scale it is a small normal number in each float format, so no product takes the slow way.
_WEIGHT_BYTE = 0x22
_NORM_EPSILON = 1e-5
#: The begin of llama.cpp's names of workers' devices.
_WORKER = "RPC"


class DeviceBackend:
    """One device, ready to compute. Use it as a context manager."""

    def __init__(self, device: int, *, threads: int) -> None:
        """``device``: llama.cpp's. ``threads``: of a CPU. Raises ModelError where the device can't be opened."""
        start = ggml_function("ggml_backend_dev_init", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        found = start(device, None)
        if found is None:
            raise ModelError("llama.cpp can't open the device to measure it")
        self.address = int(found)
        self.cpu_threads = threads if is_cpu(device) else 0  #: of this process that compute
        #: Whether the kernels send and read tensors without waiting before (``kernels/graph/inputs.c``).
        self.has_inputs_at_once = loader.status() == "on" and device_name(device).startswith(_WORKER)
        if is_cpu(device):
            _set_threads(device, self.address, threads)

    def __enter__(self) -> DeviceBackend:
        return self

    def __exit__(self, *_: object) -> None:
        ggml_function("ggml_backend_free", None, ctypes.c_void_p)(self.address)


class OpGraph:
    """Operations whose tensors are all on one device. Build them, call ``prepare``, and ``compute`` as often as wanted.

    Use it as a context manager.
    """

    def __init__(self, backend: DeviceBackend) -> None:
        self._backend = backend.address
        self._at_once = backend.has_inputs_at_once
        check_structs()
        parameters = InitParams(_MAX_TENSORS * _TENSOR_BYTES, None, True)
        self._context = ggml_function("ggml_init", ctypes.c_void_p, InitParams)(parameters)
        self._graph = 0
        self._buffer: int | None = None

    def __enter__(self) -> OpGraph:
        return self

    def __exit__(self, *_: object) -> None:
        if self._buffer is not None:
            ggml_function("ggml_backend_buffer_free", None, ctypes.c_void_p)(self._buffer)
        ggml_function("ggml_free", None, ctypes.c_void_p)(self._context)

    def tensor(self, ggml_type: int, *dimensions: int) -> int:
        """A tensor of the device."""
        return new_tensor(self._context, ggml_type, *dimensions)

    def product(self, weights: int, activations: int) -> int:
        """The matrix product."""
        return self._operation("ggml_mul_mat", weights, activations)

    def expert_product(self, weights: int, activations: int, ids: int) -> int:
        """Products of each token with those of the matrices that ``ids`` names."""
        return self._operation("ggml_mul_mat_id", weights, activations, ids)

    def sum(self, first: int, second: int) -> int:
        """The sum of two tensors."""
        return self._operation("ggml_add", first, second)

    def norm(self, vectors: int) -> int:
        """Vectors divided by the root of their mean square."""
        make = ggml_function("ggml_rms_norm", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float)
        return int(make(self._context, vectors, _NORM_EPSILON))

    def _operation(self, name: str, *sources: int) -> int:
        pointers = [ctypes.c_void_p] * (1 + len(sources))
        return int(ggml_function(name, ctypes.c_void_p, *pointers)(self._context, *sources))

    def prepare(self, results: Sequence[int]) -> None:
        """Get memory for all tensors, filled, and a graph that ends with ``results``. Raises ModelError without the
        memory.
        """
        make = ggml_function("ggml_new_graph_custom", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool)
        self._graph = int(make(self._context, _MAX_TENSORS, False))
        expand = ggml_function("ggml_build_forward_expand", None, ctypes.c_void_p, ctypes.c_void_p)
        for result in results:
            expand(self._graph, result)
        allocate = ggml_function("ggml_backend_alloc_ctx_tensors", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self._buffer = allocate(self._context, self._backend)
        if self._buffer is None:
            raise ModelError("the device has no memory for a measurement")
        # The kernels repack what is in such a buffer alone.
        ggml_function("ggml_backend_buffer_set_usage", None, ctypes.c_void_p, ctypes.c_int)(self._buffer, _WEIGHTS)
        ggml_function("ggml_backend_buffer_clear", None, ctypes.c_void_p, ctypes.c_uint8)(self._buffer, _WEIGHT_BYTE)

    def compute(self) -> None:
        """Compute it. Raises ModelError where that fails."""
        self._run("ggml_backend_graph_compute")

    def submit(self) -> None:
        """Begin to compute it. Raises ModelError where that fails."""
        self._run("ggml_backend_graph_compute_async")

    def _run(self, name: str) -> None:
        if ggml_function(name, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(self._backend, self._graph):
            raise ModelError("llama.cpp can't compute a graph to measure the device")

    def write(self, tensor: int, data: Any, size: int) -> None:
        """Copy bytes into the tensor, as llama.cpp's scheduler does between two devices."""
        if self._at_once:
            pointers, sizes = [ctypes.c_void_p] * 3, [ctypes.c_size_t] * 2
            send = ggml_function("ggml_backend_tensor_set_async", None, *pointers, *sizes)
            send(self._backend, tensor, data, 0, size)
        else:
            self._transfer("ggml_backend_tensor_set", tensor, data, size)

    def read(self, tensor: int, data: Any, size: int) -> None:
        """Copy bytes out of the tensor, as llama.cpp's scheduler does between two devices."""
        self._transfer("ggml_backend_tensor_get", tensor, data, size)

    def _transfer(self, name: str, tensor: int, data: Any, size: int) -> None:
        if not self._at_once:
            wait = ggml_function("ggml_backend_synchronize", None, ctypes.c_void_p)
            # The scheduler waits before it tries a direct copy, and again before this one.
            wait(self._backend)
            wait(self._backend)
        sizes = [ctypes.c_size_t] * 2
        ggml_function(name, None, ctypes.c_void_p, ctypes.c_void_p, *sizes)(tensor, data, 0, size)


def _set_threads(device: int, backend: int, threads: int) -> None:
    registry = ggml_function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(device)
    address = ggml_function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
        registry, b"ggml_backend_set_n_threads"
    )
    if address:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(backend, threads)
