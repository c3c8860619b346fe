"""Putting the kernels in force in this process: before llama.cpp's libraries are loaded, or not at all."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.machine import openmp_spin

if TYPE_CHECKING:
    from tailrace.engine.kernels.build import Tier

#: Versions of the binding whose llama.cpp has the interface in abi.h. It isn't a public one.
KNOWN = frozenset({"0.3.36"})
_VARIABLE = "TAILRACE_KERNELS"

#: llama.cpp's functions that the kernels call, in the order of ``struct theirs`` (abi.h).
_THEIRS = (
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
)
#: OpenMP's, which follows them. A llama.cpp that is built without it has a barrier that is as fast as ours.
_THREADS = "omp_get_num_threads"

#: What became of it in this process; None before ``load``.
_status: str | None = None
_kernels: ctypes.CDLL | None = None


def choose(choice: str) -> None:
    """Have ``load`` do so (``on``, without AMX: ``avx512``) or not (``off``), here and in child processes."""
    os.environ[_VARIABLE] = choice


def load() -> None:
    """Load the kernels so that llama.cpp, loaded after this, finds them. Where that can't be, llama.cpp's own do the
    work, and ``status`` says why.
    """
    global _status
    if _status is not None:
        return
    choice = os.environ.get(_VARIABLE, "on")
    if choice == "off":
        _status = "off"
        return
    try:
        _load("avx512" if choice == "avx512" else None)
        _status = "on"
    except KernelsUnavailable as error:
        _status = str(error)
        structlog.get_logger().info("llama.cpp's own matrix kernels are used", why=_status)


def status() -> str:
    """``on``, ``off``, or why there are none."""
    return _status or "not loaded"


def library() -> ctypes.CDLL | None:
    """The kernels, where they are in force."""
    return _kernels


def take_row_maxima(columns: int, rows: int) -> int | None:
    """The address of what has been kept of the last logits (kept.h), once, where these had so many columns and rows;
    None where nothing has. It is good until logits are made again.
    """
    if _kernels is None:
        return None
    maxima: int | None = _kernels.tailrace_kernels_kept(_columns_at, _rows_at)
    return maxima if (_columns.value, _rows.value) == (columns, rows) else None


_columns, _rows = ctypes.c_int64(), ctypes.c_int64()
_columns_at, _rows_at = ctypes.byref(_columns), ctypes.byref(_rows)


def attention_counts() -> tuple[int, int]:
    """How many attentions this process has computed with the kernels, and how many came to them and were handed on to
    llama.cpp's. A model has one a layer and pass; those that a GPU computes are in neither.
    """
    if _kernels is None:
        return 0, 0
    here, them = ctypes.c_long(), ctypes.c_long()
    _kernels.tailrace_kernels_attended(ctypes.byref(here), ctypes.byref(them))
    return here.value, them.value


def set_exact_tokens(tokens: int) -> None:
    """So many tokens of the coming passes, the first ones, are replies': the attention of each is what it is of one
    after the other, to the last bit. The others' may be computed in tiles, which round: good enough for prompts, and
    faster.
    """
    if _kernels is not None:
        _kernels.tailrace_kernels_replies(tokens)


def _load(tier: Tier | None) -> None:
    global _kernels
    if sys.platform != "linux":
        raise KernelsUnavailable("they are for Linux: elsewhere libraries aren't linked in a way that lets them in")
    if "llama_cpp" in sys.modules:
        raise KernelsUnavailable("llama.cpp was loaded before them")
    version = metadata.version("llama-cpp-python")
    if version not in KNOWN:
        raise KernelsUnavailable(f"they are for llama-cpp-python {', '.join(sorted(KNOWN))}, and this is {version}")
    theirs = _ggml()
    # Here, because numpy makes threads while it is imported, and whoever wants kernels may not be bound yet.
    from tailrace.engine.kernels.build import built

    # Global, and first: that is how the linker comes to prefer it.
    kernels = ctypes.CDLL(str(built(tier=tier)), mode=ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(theirs))
    try:
        # A library's own symbols come first where it is asked for them itself.
        functions = [ctypes.cast(getattr(ggml, name), ctypes.c_void_p) for name in _THEIRS]
    except AttributeError as error:
        raise KernelsUnavailable(f"{theirs.name} hasn't what they need: {error}") from error
    if hasattr(ggml, _THREADS):
        functions.append(ctypes.cast(getattr(ggml, _THREADS), ctypes.c_void_p))
    kernels.tailrace_kernels_theirs.restype = None
    kernels.tailrace_kernels_theirs((ctypes.c_void_p * (len(_THEIRS) + 1))(*[function.value for function in functions]))
    kernels.tailrace_kernels_interleaved.restype = ctypes.c_int64
    kernels.tailrace_kernels_kept.restype = ctypes.c_void_p
    kernels.tailrace_kernels_replies.restype = None
    kernels.tailrace_kernels_replies.argtypes = [ctypes.c_int64]
    kernels.tailrace_kernels_spin.restype = None
    kernels.tailrace_kernels_spin(openmp_spin.spin_count())
    _kernels = kernels


def _ggml() -> Path:
    """llama.cpp's library of CPU kernels, without importing the binding, which would load it."""
    spec = util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise KernelsUnavailable("llama-cpp-python isn't installed")
    library = Path(spec.origin).parent / "lib" / "libggml-cpu.so"
    if not library.is_file():
        raise KernelsUnavailable(f"{library} isn't there: this llama.cpp was built in another way")
    return library
