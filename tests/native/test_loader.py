"""Loading the kernels beside a llama.cpp that lacks one of the functions that they call, and beside a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.native_libs.compiler import find_compiler

pytestmark = pytest.mark.skipif(not cpu_tiers(), reason="this CPU can't run the kernels")

#: llama.cpp's functions that the kernels replace or call.
UPSTREAM = [
    "llamafile_sgemm",
    "ggml_compute_forward_mul_mat_tiled",
    "ggml_compute_forward_flash_attn_ext",
    "ggml_threadpool_chunk_set",
    "ggml_threadpool_chunk_add",
    "ggml_barrier",
    "ggml_tiled_wdata_size",
    "ggml_backend_buffer_get_usage",
    "ggml_backend_buffer_clear",
    "ggml_backend_buffer_get_base",
    "ggml_backend_buffer_get_size",
]

#: Loads the kernels beside a library that stands for llama.cpp's, then has that library call its own functions.
_PROGRAM = """
import ctypes, json, sys
from pathlib import Path
from tailrace.engine.kernels import loader
ggml = Path(sys.argv[1])
loader.ggml_library = lambda: ggml
loader.load()
library = ctypes.CDLL(str(ggml))
found = {"status": loader.status(), "memory": library.memory_is_replaced()}
if loader.status() != "on":
    found["calls"] = library.call_all()
print(json.dumps(found))
"""


def stand_in(folder: Path, missing: str = "") -> Path:
    """A library with llama.cpp's functions except ``missing``: each counts its calls. As in llama.cpp, calls between
    them go through the dynamic linker.
    """
    names = [name for name in UPSTREAM if name != missing]
    source = folder / "ggml.c"
    source.write_text(
        "static int calls;\nvoid *ggml_aligned_malloc(unsigned long size) { return 0; }\n"
        "int memory_is_replaced(void) { return ggml_aligned_malloc(64) != 0; }\n"
        + "".join(f"int {name}(void) {{ return ++calls; }}\n" for name in names)
        + "int call_all(void) {\n"
        + "".join(f"    {name}();\n" for name in names)
        + "    return calls;\n}\n",
        encoding="utf-8",
    )
    library = folder / "libggml-cpu.so"
    subprocess.run([find_compiler().path, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def loaded_beside(library: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(library)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_whole_llama_cpp_calls_the_kernels(tmp_path: Path) -> None:
    assert loaded_beside(stand_in(tmp_path)) == {"status": "on", "memory": 1}


@pytest.mark.parametrize("missing", UPSTREAM)
def test_a_missing_function_leaves_llama_cpp_its_own(tmp_path: Path, missing: str) -> None:
    found = loaded_beside(stand_in(tmp_path, missing))
    assert missing in found["status"]
    assert found["memory"] == 0
    assert found["calls"] == len(UPSTREAM) - 1
