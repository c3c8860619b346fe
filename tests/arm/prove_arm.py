"""Proves the kernels that exist for 64-bit ARM, under QEMU's user mode: ``make test-arm``.

Recurrent layers are compiled for NEON and compared with NumPy. Correctness alone is shown: an emulator says nothing
about speed. Needs Debian or Ubuntu; installs compiler and emulator when it may.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

from emulated_kernels import COMPILER, EMULATOR, EmulatedKernels
from tailrace.engine.kernels import build
from tailrace.engine.kernels.proofs.recurrent import wrong_recurrent

#: Debian's packages with the programs.
_PACKAGES = ("qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")
#: Mistakes that the proof has to notice on ARM, too.
_MISTAKES = (
    ("simd_neon.h", "vfmaq_f32(c, a, b)", "vfmaq_f32(b, a, c)"),
    ("simd_neon.h", "vshlq_n_s32(exponent, 23)", "vshlq_n_s32(exponent, 22)"),
    ("simd_neon.h", "vtrn2q_f64(b, d)", "vtrn1q_f64(b, d)"),
)


def main() -> int:
    """The exit status: 0 when all results are right, and each mistake was noticed."""
    if (shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None) and not install():
        return 2
    with tempfile.TemporaryDirectory(prefix="tailrace-arm-") as name:
        wrong = wrong_results(Path(name))
        print("wrong on ARM: " + ", ".join(wrong) if wrong else "the kernels of recurrent layers are right on ARM")
        unnoticed = [str(mistake) for mistake in _MISTAKES if not notices(Path(name), *mistake)]
    for mistake in unnoticed:
        print(f"a mistake isn't noticed: {mistake}")
    return 1 if wrong or unnoticed else 0


def install() -> bool:
    """Compiler and emulator from the distribution's packages; says what to do where this user may not."""
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *_PACKAGES]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Install these first (Debian, Ubuntu): sudo {' '.join(command)}", file=sys.stderr)
        return False
    return subprocess.run(command, check=False).returncode == 0


def wrong_results(folder: Path, sources: Path = build.SOURCES) -> list[str]:
    """What the kernels in ``sources`` compute wrongly on ARM."""
    return wrong_recurrent(cast(ctypes.CDLL, EmulatedKernels(folder, sources)))


def notices(folder: Path, file: str, right: str, wrong: str) -> bool:
    """Whether the proof notices that ``right`` has become ``wrong`` in a file of the kernels."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        sources = Path(name, "kernels")
        shutil.copytree(build.SOURCES, sources)
        text = (sources / file).read_text(encoding="utf-8")
        if right not in text:
            raise ValueError(f"{file} has no {right}")
        (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")
        return wrong_results(Path(name), sources) != []


if __name__ == "__main__":
    sys.exit(main())
