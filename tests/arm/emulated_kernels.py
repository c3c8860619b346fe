"""Kernels for 64-bit ARM, each operation computed by QEMU: what the proofs need of a library of kernels."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

from tailrace.engine.kernels import build
from tailrace.engine.native_libs.ggml_headers import include_folders
from tailrace.engine.native_libs.ggml_layout import GgmlView

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-static", "-pthread")
#: The functions of llama.cpp that the proofs set. The program has its own.
_UPSTREAM = ("ggml_threadpool_chunk_set", "ggml_threadpool_chunk_add", "ggml_barrier", "ggml_backend_buffer_get_usage")


def compile_for_arm(
    files: list[Path], program: Path, sources: Path = build.SOURCES, flags: tuple[str, ...] = ()
) -> None:
    """Compile ``files`` with the kernels' headers in ``sources`` for 64-bit ARM."""
    include = [flag for each in include_folders() for flag in ("-isystem", str(each))]
    command = [COMPILER, *_FLAGS, *flags, f"-I{sources}", *include, "-o", str(program), *map(str, files), "-lm"]
    subprocess.run(command, check=True)


class EmulatedKernels:
    """The kernels of recurrent layers, as the proofs call a library. Each operation is a process of QEMU."""

    def __init__(self, folder: Path, sources: Path = build.SOURCES) -> None:
        self._folder = folder
        self._program = folder / "operations"
        recurrent = sorted((sources / "recurrent").glob("*.c"))
        files = [Path(__file__).with_name("operations.c"), sources / "loading/ggml_api.c", sources / "graph/plan.c"]
        files += recurrent
        compile_for_arm(files, self._program, sources)
        for name in ("gated_delta_net", "ssm_scan", "ssm_conv", "concat", "mul"):
            function = f"ggml_compute_forward_{name}"
            setattr(self, function, lambda params, result, name=function: self._compute(name, params, result))
        self.tailrace_kernels_upstream_name = _Function(lambda index: (*map(str.encode, _UPSTREAM), None)[index])
        self.tailrace_kernels_set_upstream = _Function(lambda name, address: True)

    def _compute(self, name: str, params: ctypes.c_void_p, result: ctypes.c_void_p) -> None:
        thread = GgmlView("ggml_compute_params", params.value or 0)
        if thread.get("ith"):
            return  # The process of the first thread has as many threads.
        target = GgmlView("ggml_tensor", result.value or 0)
        addresses = [target.get("src", index) for index in range(target.count("src"))]
        sources = [GgmlView("ggml_tensor", address) for address in addresses if address]
        parts = [name.encode().ljust(64, b"\0"), struct.pack("<ii", thread.get("nth"), 1 + len(sources))]
        for place, tensor in enumerate([target, *sources], start=-1):
            parts += [struct.pack("<qq", place, memory_bytes(tensor)), tensor.memory()]
            parts.append(ctypes.string_at(tensor.get("data"), memory_bytes(tensor)))
        (self._folder / "operation").write_bytes(b"".join(parts))
        command = [EMULATOR, str(self._program), str(self._folder / "operation"), str(self._folder / "result")]
        subprocess.run(command, check=True, timeout=300)
        found = (self._folder / "result").read_bytes()
        ctypes.memmove(target.get("data"), found, len(found))


class _Function:
    """A function that takes a declaration of its types, as those of ctypes do."""

    def __init__(self, function: object) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        assert callable(self._function)
        return self._function(*arguments)


def memory_bytes(tensor: GgmlView) -> int:
    """From the first number of a tensor of 32-bit numbers to the end of its last one."""
    steps = ((tensor.get("ne", index), tensor.get("nb", index)) for index in range(tensor.count("ne")))
    return 4 + sum((size - 1) * stride for size, stride in steps)
