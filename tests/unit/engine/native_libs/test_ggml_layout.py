"""ggml's structs in Python: written as llama.cpp's own code reads them, and read as it writes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tailrace.engine.native_libs.ggml_layout import GgmlStruct

#: In a process of its own: where llama.cpp is loaded already, kernels can't be.
_PROGRAM = """
import ctypes, json
from llama_cpp._ggml import libggml as ggml
from tailrace.engine.native_libs.ggml_layout import GgmlStruct
params = GgmlStruct("ggml_threadpool_params", n_threads=1)
ggml.ggml_threadpool_params_init(ctypes.c_void_p(params.address), 7)
found = {field: params.get(field) for field in ("n_threads", "prio", "poll", "strict_cpu", "paused")}
other = GgmlStruct("ggml_threadpool_params", n_threads=7, poll=50)
ggml.ggml_threadpool_params_match.restype = ctypes.c_bool
def match():
    return ggml.ggml_threadpool_params_match(ctypes.c_void_p(params.address), ctypes.c_void_p(other.address))
matches = [match()]
for field, index in (("n_threads", 0), ("prio", 0), ("poll", 0), ("strict_cpu", 0), ("cpumask", 511)):
    kept = other.get(field, index)
    other.set(field, kept + 1, index)
    matches.append(match())
    other.set(field, kept, index)
print(json.dumps([found, matches]))
"""


def test_fields_lie_where_llama_cpp_has_them() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    found, matches = json.loads(done.stdout)
    assert found == {"n_threads": 7, "prio": 0, "poll": 50, "strict_cpu": 0, "paused": 0}
    assert matches == [True, False, False, False, False, False]


_DECLARED = """
import json
from tailrace.engine.backends.llama.thread_pools import _PoolParams
from tailrace.engine.backends.llama.upstream_repack import _TensorHead
from tailrace.engine.native_libs.ggml_layout import _field
found = []
for name, declared in (("ggml_threadpool_params", _PoolParams), ("ggml_tensor", _TensorHead)):
    for field, *_ in declared._fields_:
        own, real = getattr(declared, field), _field(name, field)
        found.append([name, field, own.offset, own.size, real.offset, real.size])
print(json.dumps(found))
"""


def test_structs_that_python_declares_are_those_of_the_headers() -> None:
    """The thread pools have to work without a compiler, so the backend declares their struct."""
    done = subprocess.run([sys.executable, "-c", _DECLARED], capture_output=True, text=True, check=True)
    fields = json.loads(done.stdout.splitlines()[-1])
    assert len(fields) == 8
    for structure, field, offset, size, real_offset, real_size in fields:
        assert (offset, size) == (real_offset, real_size), (structure, field)


def test_a_field_that_is_not_there_is_an_error() -> None:
    tensor = GgmlStruct("ggml_tensor", type=1, name=b"result_output")
    tensor.set("ne", -1, 3)
    assert tensor.get("ne", 3) == (1 << 64) - 1
    with pytest.raises(IndexError, match="ne has 4 elements"):
        tensor.set("ne", 1, 4)
    with pytest.raises(KeyError, match="no field colour of ggml_tensor"):
        tensor.set("colour", 1)
    with pytest.raises(ValueError, match="no room"):
        tensor.set("name", b"x" * 64)
