"""Instruction tiers: the CPU flags that each needs, and the compiler flags that make code for it.

A library is compiled for its tier and for nothing else of the machine that compiles it. So a cache folder may be shared
by machines with different CPUs, and the process chooses its tier when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tailrace.engine.native_libs import UnsupportedCpu
from tailrace.machine.isa import read_cpu_flags

TierName = Literal["amx", "avx512-vnni", "avx512", "avx2-vnni", "avx2", "neon", "any"]


@dataclass(frozen=True)
class Tier:
    """One instruction tier."""

    name: TierName
    cpu_flags: frozenset[str]  #: flags of /proc/cpuinfo that the CPU needs
    compiler_flags: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether this CPU has what the tier needs."""
        return self.cpu_flags <= read_cpu_flags()

    def require(self) -> None:
        """Raise UnsupportedCpu where this CPU lacks what the tier needs."""
        if missing := sorted(self.cpu_flags - read_cpu_flags()):
            raise UnsupportedCpu(f"this CPU lacks {', '.join(missing)}")


_ANY = Tier("any", frozenset(), ())
_AVX2 = Tier(
    "avx2",
    # Linux calls lzcnt by AMD's name for the instructions that came with it.
    frozenset(("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "popcnt")),
    ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt"),
)
_AVX2_VNNI = Tier("avx2-vnni", _AVX2.cpu_flags | {"avx_vnni"}, (*_AVX2.compiler_flags, "-mavxvnni"))
_AVX512 = Tier(
    "avx512",
    _AVX2.cpu_flags | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    (
        *_AVX2.compiler_flags,
        *("-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"),
        # Without it GCC vectorises plain loops 256 bits wide.
        "-mprefer-vector-width=512",
    ),
)
_AVX512_VNNI = Tier("avx512-vnni", _AVX512.cpu_flags | {"avx512_vnni"}, (*_AVX512.compiler_flags, "-mavx512vnni"))
_AMX = Tier(
    "amx",
    _AVX512_VNNI.cpu_flags | {"avx512_bf16", "avx512vbmi", "amx_tile", "amx_int8", "amx_bf16"},
    (
        *_AVX512_VNNI.compiler_flags,
        *("-mavx512bf16", "-mavx512vbmi", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    ),
)
#: 64-bit ARM since ARMv8.2 with DOTPROD. Linux's names of its flags.
_NEON = Tier("neon", frozenset(("asimd", "asimddp", "fphp")), ("-march=armv8.2-a+fp16+dotprod",))

_ALL = (_AMX, _AVX512_VNNI, _AVX512, _AVX2_VNNI, _AVX2, _NEON, _ANY)
TIERS: dict[TierName, Tier] = {tier.name: tier for tier in _ALL}
