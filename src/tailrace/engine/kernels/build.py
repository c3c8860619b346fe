"""Builds the kernels' library for one of this CPU's instruction tiers."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from tailrace.engine.native_libs.ggml_headers import include_folders
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS, TierName

SOURCES = Path(__file__).parent
_X86_TIERS: tuple[TierName, ...] = ("amx", "avx512-vnni", "avx2-vnni", "avx2")
#: The tiers that the kernels are written for on this architecture, the fastest first. AMX adds tiles for prompts.
KERNEL_TIERS: tuple[TierName, ...] = ("neon",) if platform.machine() == "aarch64" else _X86_TIERS
#: The tiers that each value of the setting ``kernels`` allows, the fastest first; none for ``off``. NEON's have been
#: proved and not measured, so ``on`` leaves ARM to llama.cpp.
TIERS_OF_CHOICE: dict[str, tuple[TierName, ...]] = {
    "on": _X86_TIERS,
    "avx512": ("avx512-vnni",),
    "avx2": ("avx2-vnni", "avx2"),
    "neon": ("neon",),
}


def cpu_tiers() -> list[TierName]:
    """The kernels' tiers that this CPU can run, the fastest first."""
    return [name for name in KERNEL_TIERS if TIERS[name].supported]


def build_kernels(tier: TierName, cache: Path | None = None, *, again: bool = False) -> Path:
    """The proved library of ``tier``, see ``ensure_built``. Raises NativeUnavailable."""
    return ensure_built(source(), TIERS[tier], cache, again=again)


def source() -> Source:
    """The kernels' C code. Raises NativeUnavailable where llama.cpp's headers are missing."""
    return Source("kernels", SOURCES, prove_kernels, include_folders())


def prove_kernels(library: ctypes.CDLL) -> list[str]:
    """What ``library`` computes wrongly, by name; nothing where all is right."""
    # NumPy reads it when it is imported: threads that wait for each other make the proofs take five times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Here, because the proofs import numpy and gguf, which a process that finds its library built needn't do.
    from tailrace.engine.kernels.proofs import wrong_results

    return wrong_results(library)
