"""A graph of ggml's operations, which the kernels see as a whole before its operations are computed."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence

import numpy as np

from tailrace.engine.kernels.proofs.stand_in import ThreadPool, set_upstream
from tailrace.engine.kernels.proofs.tensors import compute_params, pointer
from tailrace.engine.native_libs.ggml_layout import GgmlStruct, ggml_constant

_COMPUTE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
#: Bytes of the graph's work buffer.
_WORK_BYTES = 1 << 18


def compute_graph(
    library: ctypes.CDLL,
    nodes: Sequence[GgmlStruct],
    sources: Sequence[Sequence[GgmlStruct]],
    *,
    threads: int = 2,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Let ``library`` compute the operations ``nodes``, whose inputs are ``sources``, as llama.cpp would. What it
    delegates is not computed. The nodes' flags are the same afterwards.

    ``meanwhile`` is called when the graph is planned and none of its operations is computed yet.
    """
    uses = [sum(source is node for inputs in sources for source in inputs) for node in nodes]
    flag = ggml_constant("GGML_TENSOR_FLAG_COMPUTE")
    for node in nodes:
        node.set("flags", flag)
    addresses = np.array([node.address for node in nodes], np.uint64)
    counts = np.array(uses, np.int32)
    # A table without a free entry: each key is found wherever it is.
    used = np.full(len(nodes) // 32 + 1, 0xFFFFFFFF, np.uint32)
    graph = GgmlStruct("ggml_cgraph", n_nodes=len(nodes), nodes=addresses.ctypes.data, use_counts=counts.ctypes.data)
    for field, value in (("size", len(nodes)), ("used", used.ctypes.data), ("keys", addresses.ctypes.data)):
        graph.set(f"visited_hash_set.{field}", value)
    work = np.zeros(_WORK_BYTES, np.uint8)
    plan = GgmlStruct("ggml_cplan", n_threads=threads, work_size=work.nbytes, work_data=work.ctypes.data)
    pool = ThreadPool(threads)
    barrier = threading.Barrier(threads)

    def run(thread: int) -> None:
        params = compute_params(thread, threads, work)
        for node in nodes:
            if node.get("flags") & flag:
                library.ggml_cpu_extra_compute_forward(pointer(params), pointer(node))
                barrier.wait(60)

    def compute(_graph: int | None, _plan: int | None) -> int:
        meanwhile()
        others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
        for other in others:
            other.start()
        run(0)
        for other in others:
            other.join()
        return 0

    function = _COMPUTE(compute)
    set_upstream(library, {**pool.functions, "ggml_graph_compute": function})
    try:
        library.ggml_graph_compute(pointer(graph), pointer(plan))
    finally:
        set_upstream(library, {})
    assert all(node.get("flags") == flag for node in nodes)
