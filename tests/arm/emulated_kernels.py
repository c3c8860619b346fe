"""Kernels for 64-bit ARM, each operation computed by QEMU: what the proofs need of a library of kernels."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tailrace.engine.native_libs.compiler import COMPILE_FLAGS
from tailrace.engine.native_libs.ggml_headers import include_folders
from tailrace.engine.native_libs.ggml_layout import GgmlView
from tailrace.engine.native_libs.tiers import TIERS

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
#: Optimising as the engine does would take longer than the proofs.
_FLAGS = (*COMPILE_FLAGS, *TIERS["neon"].compiler_flags, "-O1")
#: The functions of llama.cpp that the proofs set. The program has its own.
_UPSTREAM = ("ggml_threadpool_chunk_set", "ggml_threadpool_chunk_add", "ggml_barrier", "ggml_backend_buffer_get_usage")
#: Functions that compute an operation.
_OPERATIONS = (
    *(f"ggml_compute_forward_{name}" for name in ("gated_delta_net", "ssm_scan", "ssm_conv", "concat", "mul")),
    "ggml_compute_forward_flash_attn_ext",
    "ggml_compute_forward_mul_mat_tiled",
    "ggml_cpu_extra_compute_forward",
)


def compile_for_arm(files: list[Path], program: Path, sources: Path) -> None:
    """Compile ``files`` with the kernels' headers in ``sources`` for 64-bit ARM, as many at once as there are CPUs."""
    include = [flag for each in include_folders() for flag in ("-isystem", str(each))]
    objects = [program.with_name(f"{number}.o") for number, _ in enumerate(files)]

    def compile_one(file: Path, made: Path) -> None:
        command = [COMPILER, *_FLAGS, f"-I{sources}", *include, "-c", "-o", str(made), str(file)]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, files, objects))
    subprocess.run([COMPILER, "-static", "-pthread", "-o", str(program), *map(str, objects), "-lm"], check=True)


class EmulatedKernels:
    """All kernels, as the proofs call a library. Each operation is a process of QEMU."""

    def __init__(self, folder: Path, sources: Path) -> None:
        self._folder = folder
        self._program = folder / "operations"
        self._budget = self._exact_tokens = 0
        self._maxima = b""
        files = [Path(__file__).with_name("operations.c"), *sorted(sources.rglob("*.c"))]
        compile_for_arm(files, self._program, sources)
        for name in _OPERATIONS:
            setattr(self, name, lambda params, result, name=name: self._compute(name, params, result))
        rows = self._run().decode().splitlines()
        self._formats = [[int(number) for number in row.split()] for row in rows]
        self.tailrace_kernels_upstream_name = _Function(lambda index: (*map(str.encode, _UPSTREAM), None)[index])
        self.tailrace_kernels_set_upstream = _Function(lambda name, address: True)
        self.tailrace_kernels_format = _Function(self._format)
        self.tailrace_kernels_amx_usable = _Function(lambda: False)
        self.tailrace_kernels_set_repack_budget = _Function(self._set_budget)
        self.tailrace_kernels_free_repacked = _Function(lambda model: None)
        self.tailrace_kernels_set_exact_tokens = _Function(self._set_exact_tokens)

    def __getitem__(self, name: str) -> _Function:
        assert name == "tailrace_kernels_take_row_maxima"
        return _Function(self._take_maxima)

    def _run(self, *arguments: str) -> bytes:
        command = [EMULATOR, str(self._program), *arguments]
        return subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE).stdout

    def _format(self, index: int, row: ctypes.Array[ctypes.c_int32]) -> bool:
        if index >= len(self._formats):
            return False
        for place, number in enumerate(self._formats[index]):
            row[place] = number
        return True

    def _set_budget(self, model: int, budget: ctypes.c_int64) -> None:
        self._budget = budget.value

    def _set_exact_tokens(self, tokens: int) -> None:
        self._exact_tokens = tokens

    def _take_maxima(self, tokens: object, rows: object) -> object:
        taken, self._maxima = self._maxima, b""
        if not taken:
            return None
        for place, number in zip((tokens, rows), struct.unpack_from("<qq", taken), strict=True):
            ctypes.cast(place, ctypes.POINTER(ctypes.c_int64))[0] = number  # type: ignore[arg-type]
        numbers = np.frombuffer(taken, np.float32, offset=16)
        return numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def _compute(self, name: str, params: ctypes.c_void_p, result: ctypes.c_void_p) -> None:
        thread = GgmlView("ggml_compute_params", params.value or 0)
        if thread.get("ith"):
            return  # The process of the first thread has as many threads.
        target = GgmlView("ggml_tensor", result.value or 0)
        addresses = [target.get("src", index) for index in range(target.count("src"))]
        sources = {place: GgmlView("ggml_tensor", address) for place, address in enumerate(addresses) if address}
        parts = [name.encode().ljust(64, b"\0"), struct.pack("<ii", thread.get("nth"), 1 + len(sources))]
        parts.append(struct.pack("<qq", self._budget, self._exact_tokens))
        for place, tensor in {-1: target, **sources}.items():
            parts += [struct.pack("<qq", place, memory_bytes(tensor)), tensor.memory()]
            parts.append(ctypes.string_at(tensor.get("data"), memory_bytes(tensor)))
        (self._folder / "operation").write_bytes(b"".join(parts))
        self._run(str(self._folder / "operation"), str(self._folder / "result"))
        found, size = (self._folder / "result").read_bytes(), memory_bytes(target)
        ctypes.memmove(target.get("data"), found, size)
        self._maxima = found[size:]


class _Function:
    """A function that takes a declaration of its types, as those of ctypes do."""

    def __init__(self, function: object) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        assert callable(self._function)
        return self._function(*arguments)


def memory_bytes(tensor: GgmlView) -> int:
    """From a tensor's first number to the end of its last one."""
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.get("type"))]
    counts = [tensor.get("ne", index) for index in range(tensor.count("ne"))]
    counts[0] //= weights
    return int(size + sum((count - 1) * tensor.get("nb", index) for index, count in enumerate(counts)))
