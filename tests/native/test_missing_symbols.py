"""A function that llama.cpp lacks: every operation that needs it is left to llama.cpp, and the others are computed.

Each case is a process of its own, for a call of a function that isn't there would end it. All are forks of one that has
imported everything.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import textwrap

import pytest

from tailrace.engine.kernels.proofs.stand_in import upstream_names
from upstream_functions import NEEDED, OPTIONAL

#: What all processes need.
_IMPORTS = """
import ctypes, json, os, signal, sys, threading
import numpy as np
from gguf import GGMLQuantizationType as Kind
from tailrace.engine.kernels.proofs.attention import attention_by
from tailrace.engine.kernels.proofs.expert_products import multiply_by_expert
from tailrace.engine.kernels.proofs.products import quantised_activations
from tailrace.engine.kernels.proofs.random_weights import random_weights
from tailrace.engine.kernels.proofs.repacked_products import multiply, repacking
from tailrace.engine.kernels.proofs.stand_in import ThreadPool, set_upstream
from tailrace.engine.kernels.proofs.tensors import compute_params, pointer, set_sources, tensor_of, weight_tensor
from tailrace.engine.native_libs.ggml_layout import GgmlStruct
"""
#: What one process does: all operations of the kernels by two threads, without the function that it is told.
#: It prints which operations were computed here, and which of llama.cpp's functions were called in their place.
_OPERATIONS = """
library = ctypes.CDLL(sys.argv[1])
called, computed = [], []
pool = ThreadPool(2)

def upstream(name, result=None, value=None):
    return ctypes.CFUNCTYPE(result)(lambda: (called.append(name), value)[1])

memory = np.full(64 << 20, 7, np.uint8)
functions = pool.functions | {
    "llamafile_sgemm": upstream("sgemm", ctypes.c_bool, True),
    "ggml_compute_forward_mul_mat_tiled": upstream("tiled", ctypes.c_bool, True),
    "ggml_compute_forward_flash_attn_ext": upstream("attention"),
    "ggml_cpu_extra_compute_forward": upstream("extra", ctypes.c_bool, False),
    "ggml_graph_compute": upstream("graph", ctypes.c_int, 0),
    "ggml_tiled_wdata_size": upstream("wdata_size", ctypes.c_size_t, 77),
    "ggml_backend_buffer_clear": upstream("clear"),
    "ggml_backend_buffer_get_base": upstream("base", ctypes.c_void_p, memory.ctypes.data),
    "ggml_backend_buffer_get_size": upstream("size", ctypes.c_size_t, memory.nbytes),
    "ggml_backend_buffer_is_host": upstream("host", ctypes.c_bool, True),
    "ggml_backend_alloc_ctx_tensors_from_buft": upstream("alloc", ctypes.c_void_p, 1),
    "ggml_backend_tensor_get": upstream("get"),
    "ggml_backend_tensor_set": upstream("set"),
    "ggml_backend_tensor_memset": upstream("memset"),
    "ggml_backend_buffer_free": upstream("free"),
    "ggml_get_first_tensor": upstream("first", ctypes.c_void_p, None),
    "ggml_get_next_tensor": upstream("next", ctypes.c_void_p, None),
    "omp_get_num_threads": ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 2),
}
functions.pop(missing, None)
set_upstream(library, functions)
random = np.random.default_rng(3)

def note(name, array):
    if np.isfinite(array).all():
        computed.append(name)

# Weights of more than a megabyte, so that threads share work chunks.
kind, rows, numbers = Kind.Q8_0, 2064, 512
weights = random_weights(kind, random, rows, numbers)
activations = random.standard_normal((3, numbers)).astype(np.float32)
quantised, _ = quantised_activations(Kind.Q8_0, random, 3, numbers)
found = np.full((3, rows), np.nan, np.float32)
library.llamafile_sgemm.restype = ctypes.c_bool

def file_order(thread):
    count, size = ctypes.c_int64, numbers // 32
    params = compute_params(thread, 2)
    library.llamafile_sgemm(
        pointer(params), count(rows), count(3), count(size), weights.ctypes.data_as(ctypes.c_void_p), count(size),
        quantised.ctypes.data_as(ctypes.c_void_p), count(size), found.ctypes.data_as(ctypes.c_void_p), count(rows),
        *map(ctypes.c_int, (kind, Kind.Q8_0, Kind.F32)),
    )

threads = [threading.Thread(target=file_order, args=(thread,)) for thread in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
note("file order", found)

with repacking(library, 2 * weights.nbytes):
    note("repacked", multiply(library, kind, weights, activations))
    matrices = weights[:64].reshape(2, 32, -1).copy()
    ids = np.zeros((3, 1), np.int32)
    note("experts", multiply_by_expert(library, kind, matrices, activations[:, None], ids))
query = random.standard_normal((1, 4, 2, 64)).astype(np.float32)
keys, values = (random.standard_normal((1, 2, 32, 64)).astype(np.float16) for _ in range(2))
mask = np.zeros((1, 1, 2, 32), np.float16)
note("attention", attention_by(library, query, keys, values, mask, 0.125, 2))
prompt = random.standard_normal((1, 4, 300, 64)).astype(np.float32)
mask = np.zeros((1, 1, 300, 32), np.float16)
note("prompt's attention", attention_by(library, prompt, keys, values, mask, 0.125, 2))

library.ggml_tiled_wdata_size.restype = ctypes.c_size_t
own = weight_tensor(kind, weights)
columns, result = (tensor_of(array[None, None]) for array in (activations, found))
set_sources(result, own, columns)
assert library.ggml_tiled_wdata_size(2, pointer(result)) >= 77
if missing != "ggml_backend_buffer_clear":
    library.ggml_backend_buffer_clear.argtypes = [ctypes.c_void_p, ctypes.c_uint8]
    library.ggml_backend_buffer_clear(1, 0)  # Memory that the kernels haven't given out.
    library.ggml_aligned_malloc.restype = ctypes.c_void_p
    assert library.ggml_aligned_malloc(ctypes.c_size_t(64 << 20))
graph, plan = GgmlStruct("ggml_cgraph", n_nodes=0), GgmlStruct("ggml_cplan", n_threads=2)
assert (library.ggml_graph_compute(pointer(graph), pointer(plan)) == 0) == (missing != "ggml_graph_compute")
library.tailrace_kernels_record_cells(1, ctypes.c_int64(64), ctypes.c_int64(1))
library.ggml_backend_alloc_ctx_tensors_from_buft(None, None)
library.ggml_backend_tensor_get(pointer(result), pointer(result), ctypes.c_size_t(0), ctypes.c_size_t(4))
library.ggml_backend_tensor_set(pointer(result), pointer(result), ctypes.c_size_t(0), ctypes.c_size_t(4))
if missing != "ggml_backend_tensor_memset":
    library.ggml_backend_tensor_memset(pointer(result), ctypes.c_uint8(0), ctypes.c_size_t(0), ctypes.c_size_t(4))
if missing != "ggml_backend_buffer_free":
    library.ggml_backend_buffer_free(None)
print(json.dumps([computed, sorted(set(called))]), flush=True)
"""
#: Forks a process for each function, and prints each one's exit status and what it printed. A case takes 0.1 s.
_FORKS = """
ended = {}
for name in sys.argv[2:]:
    read, write = os.pipe()
    process = os.fork()
    if not process:
        for output in (1, 2):
            os.dup2(write, output)
        signal.alarm(60)
        operate(name)
        os._exit(0)
    os.close(write)
    with open(read) as printed:
        text = printed.read()
    ended[name] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text
print(json.dumps(ended))
"""

ALL = ["file order", "repacked", "experts", "attention", "prompt's attention"]
#: What is computed without a function; all that isn't here stays.
LOST = {
    "ggml_threadpool_chunk_set": ["repacked", "experts", "attention", "prompt's attention"],
    "ggml_threadpool_chunk_add": ["repacked", "experts", "attention", "prompt's attention"],
    "ggml_barrier": ["repacked", "experts", "attention", "prompt's attention"],
    "ggml_backend_buffer_get_usage": ["repacked", "experts"],
}
#: Upstream's functions that are called in the place of what is lost.
DELEGATED = {"repacked": "tiled", "experts": "extra", "attention": "attention", "prompt's attention": "attention"}


def test_every_function_has_a_case(library: ctypes.CDLL) -> None:
    assert set(upstream_names(library)) == {*NEEDED, *OPTIONAL}


#: Functions of graphs that are divided between devices: no operation needs them.
_OF_DEVICES = {name for name in NEEDED if "_sched_" in name} | {
    "ggml_backend_graph_compute_async",
    "ggml_backend_offload_op",
    "ggml_backend_name",
    "ggml_graph_view",
    "ggml_backend_synchronize",
    "ggml_backend_tensor_set_async",
}


MISSING = ["nothing", *(name for name in (*NEEDED, *OPTIONAL) if name not in _OF_DEVICES)]


@pytest.fixture(scope="session")
def ended(library: ctypes.CDLL) -> dict[str, tuple[int, str]]:
    """The exit status of the process without each function, and what it printed."""
    operate = f"def operate(missing):\n{textwrap.indent(_OPERATIONS, '    ')}"
    command = [sys.executable, "-c", f"{_IMPORTS}{operate}{_FORKS}", library._name, *MISSING]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    return {name: (status, text) for name, (status, text) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("missing", MISSING)
def test_what_needs_a_missing_function_is_delegated(ended: dict[str, tuple[int, str]], missing: str) -> None:
    status, text = ended[missing]
    assert status == 0, text
    computed, called = json.loads(text)
    lost = LOST.get(missing, [])
    assert computed == [name for name in ALL if name not in lost]
    assert {DELEGATED[name] for name in lost} <= set(called)
