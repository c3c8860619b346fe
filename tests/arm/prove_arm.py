"""Proves the kernels for 64-bit ARM, under QEMU's user mode: ``make test-arm``.

They are compiled for the tier ``neon``, and products of repacked weights, products by expert, attention and recurrent
layers are compared with the same references as on x86. Correctness alone is shown: an emulator says nothing about
speed. Needs Debian or Ubuntu; installs compiler and emulator when it may.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from emulated_kernels import COMPILER, EMULATOR, EmulatedKernels
from tailrace.engine.kernels import build
from tailrace.engine.kernels.proofs.attention import attention_is_right
from tailrace.engine.kernels.proofs.expert_products import wrong_expert_products
from tailrace.engine.kernels.proofs.recurrent import wrong_recurrent
from tailrace.engine.kernels.proofs.repacked_products import wrong_repacked_products

#: Debian's packages with the programs.
_PACKAGES = ("qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")

Proof = Callable[[ctypes.CDLL], list[str]]


def wrong_attention(library: ctypes.CDLL) -> list[str]:
    """``attention`` where it is wrong."""
    return [] if attention_is_right(library) else ["attention"]


#: What each proof compares, and the proof.
_PROOFS: dict[str, Proof] = {
    "products of repacked weights": wrong_repacked_products,
    "products by expert": wrong_expert_products,
    "attention": wrong_attention,
    "recurrent layers": wrong_recurrent,
}


class Mistake(NamedTuple):
    """One thing wrong in a file of the kernels."""

    file: str
    right: str
    wrong: str


#: Mistakes of one library, which a proof has to notice, each by a result that only it spoils.
_MISTAKES: tuple[tuple[Proof, tuple[str, ...], tuple[Mistake, ...]], ...] = (
    (
        wrong_repacked_products,
        ("repacked Q5_0", "repacked Q8_0", "repacked MXFP4", "repacked Q4_1", "repacked Q4_K"),
        (
            Mistake("products/quants_neon.h", "vdupq_n_s8((int8_t)-from)", "vdupq_n_s8((int8_t)(1 - from))"),
            Mistake("products/repacked_neon.h", "vdupq_n_u8(128)", "vdupq_n_u8(64)"),
            Mistake("simd_neon.h", "vsubq_u32(e, vdupq_n_u32(1))", "e"),
            Mistake("products/repacked_neon.h", "vfmaq_f32(a[i][j], m, broad", "vfmsq_f32(a[i][j], m, broad"),
            Mistake("products/repacked_neon.h", "vmull_high_s16(a, b)", "vmull_s16(vget_low_s16(a), vget_low_s16(b))"),
        ),
    ),
    (wrong_attention, ("attention",), (Mistake("attention/words_neon.h", "(int16_t)-shift", "(int16_t)(1 - shift)"),)),
    (wrong_attention, ("attention",), (Mistake("simd_neon.h", "{1, 2, 4, 8, 16, 32", "{1, 2, 4, 16, 8, 32"),)),
    (wrong_recurrent, (), (Mistake("simd_neon.h", "vfmaq_f32(c, a, b)", "vfmaq_f32(b, a, c)"),)),
    (wrong_recurrent, (), (Mistake("simd_neon.h", "vshlq_n_s32(exponent, 23)", "vshlq_n_s32(exponent, 22)"),)),
    (wrong_recurrent, (), (Mistake("simd_neon.h", "vtrn2q_f64(b, d)", "vtrn1q_f64(b, d)"),)),
)


def main() -> int:
    """The exit status: 0 when all results are right, and each mistake was noticed."""
    if not is_installed() and not install():
        return 2
    failed = False
    with tempfile.TemporaryDirectory(prefix="tailrace-arm-") as name:
        kernels = cast(ctypes.CDLL, EmulatedKernels(Path(name), build.SOURCES))
        for subject, proof in _PROOFS.items():
            wrong = proof(kernels)
            print(f"wrong on ARM: {', '.join(wrong)}" if wrong else f"right on ARM: {subject}", flush=True)
            failed |= bool(wrong)
        for proof, expected, mistakes in _MISTAKES:
            found = wrong_with(Path(name), proof, mistakes)
            if not found or not set(expected) <= set(found):
                print(f"not noticed ({', '.join(found) or 'all is right'}): {mistakes}", flush=True)
                failed = True
    return int(failed)


def is_installed() -> bool:
    """Whether the compiler with the C library's headers, and the emulator, are here: Debian has a package for each."""
    if shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None:
        return False
    command = [COMPILER, "-E", "-include", "stdlib.h", "-x", "c", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def install() -> bool:
    """Compiler and emulator from the distribution's packages; says what to do where this user may not."""
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *_PACKAGES]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Install these first (Debian, Ubuntu): sudo {' '.join(command)}", file=sys.stderr)
        return False
    return subprocess.run(command, check=False).returncode == 0


def wrong_with(folder: Path, proof: Proof, mistakes: Sequence[Mistake]) -> list[str]:
    """What ``proof`` says of the kernels with these mistakes."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        sources = Path(name, "kernels")
        shutil.copytree(build.SOURCES, sources)
        for mistake in mistakes:
            text = (sources / mistake.file).read_text(encoding="utf-8")
            if mistake.right not in text:
                raise ValueError(f"{mistake.file} has no {mistake.right}")
            (sources / mistake.file).write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
        return proof(cast(ctypes.CDLL, EmulatedKernels(Path(name), sources)))


if __name__ == "__main__":
    sys.exit(main())
