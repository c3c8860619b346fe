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
from upstream_functions import NEEDED

pytestmark = pytest.mark.skipif(not cpu_tiers(), reason="this CPU can't run the kernels")


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
    names = [name for name in NEEDED if name != missing]
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


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_function_leaves_llama_cpp_its_own(tmp_path: Path, missing: str) -> None:
    found = loaded_beside(stand_in(tmp_path, missing))
    assert missing in found["status"]
    assert found["memory"] == 0
    assert found["calls"] == len(NEEDED) - 1


def test_an_optional_function_may_be_missing(tmp_path: Path) -> None:
    """``stand_in`` has no OpenMP: threads then wait in llama.cpp's own barrier."""
    assert "omp_get_num_threads" not in NEEDED
    assert loaded_beside(stand_in(tmp_path))["status"] == "on"


#: Loads the kernels beside the real llama.cpp and prints what became of them; the log goes to standard output, too.
_STATUS = """
import sys
from tailrace.engine.kernels import loader
from tailrace.engine.native_libs import ggml_headers, tiers
{change}
loader.load()
print("status:", loader.status())
"""


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ("import os; os.environ.update(PATH='/nowhere', CC='')", "warning", ["there is no C compiler"]),
        ("ggml_headers.cache_folder = __import__('pathlib').Path", "warning", ["the headers of llama.cpp aren't in"]),
        ("loader.ggml_library = lambda: __import__('pathlib').Path('/etc/hostname')", "warning", ["isn't a shared"]),
        ("tiers.read_cpu_flags = lambda: frozenset()", "info", ["this CPU lacks", "avx2, bmi1"]),
        ("import llama_cpp", "warning", ["llama.cpp was loaded before the kernels"]),
    ],
    ids=["no compiler", "no headers", "another library", "another CPU", "too late"],
)
def test_what_keeps_the_kernels_away_is_logged(change: str, level: str, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STATUS.format(change=change)], capture_output=True, text=True, check=True
    )
    status = done.stdout.splitlines()[-1]
    assert all(word in status for word in words), status
    (logged,) = [line for line in done.stdout.splitlines() if "llama.cpp's own kernels are used" in line]
    assert level in logged


def test_another_version_of_the_binding_is_warned_of_and_its_kernels_are_used_where_they_fit() -> None:
    change = "loader.binding_version = lambda: '9.9.9'"
    done = subprocess.run(
        [sys.executable, "-c", _STATUS.format(change=change)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "status: on"
    (logged,) = [line for line in done.stdout.splitlines() if "hasn't been tested with tailrace" in line]
    assert "warning" in logged
    assert "9.9.9" in logged
