"""The CPU's instruction sets that llama.cpp uses, and the weight formats that it repacks for them.

They are read from /proc/cpuinfo. On systems without it, nothing is known.
"""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

#: Usual names by /proc/cpuinfo's flags.
_NAMES = {
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
}
#: Formats whose weights llama.cpp repacks at load, by the instruction sets that its kernels for them need
#: (ggml-cpu/repack.cpp of llama.cpp; for AMX ggml-cpu/amx).
_REPACKED_FORMATS = (
    ({"AVX2"}, ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")),
    ({"AVX-512"}, ("Q2_K",)),
    ({"DOTPROD"}, ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4")),
    ({"AMX INT8", "AVX-512 VNNI"}, ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")),
)


class Isa(msgspec.Struct, frozen=True):
    """The CPU's instruction sets, and the formats that llama.cpp repacks on it."""

    architecture: str  #: such as ``x86_64``
    sets: tuple[str, ...]
    formats: tuple[str, ...]  #: weight formats that llama.cpp repacks


def read_cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """The CPU's flags as /proc/cpuinfo under ``root`` names them; none where there is no such file."""
    cpuinfo = root / "proc/cpuinfo"
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"flags", "Features"}:
                return frozenset(value.split())
    return frozenset()


def read_isa(root: Path = Path("/")) -> Isa:
    """This CPU, or the one whose /proc/cpuinfo is under ``root``."""
    flags = read_cpu_flags(root)
    sets = tuple(name for flag, name in _NAMES.items() if flag in flags)
    formats = dict.fromkeys(
        format for needed, formats in _REPACKED_FORMATS if needed <= set(sets) for format in formats
    )
    return Isa(platform.machine(), sets, tuple(formats))
