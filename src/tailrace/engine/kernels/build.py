"""Compiles the kernels for this machine's CPU, once: the result is proved, then kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.kernels.proof import wrong_results
from tailrace.folders import cache_folder
from tailrace.machine.isa import read_isa

FOLDER = Path(__file__).parent
#: What the code is written for; -march=native brings these and what else the CPU has.
NEEDED = frozenset({"AVX-512", "AVX-512 VNNI", "F16C"})
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11")
#: Seconds; it takes about two.
_PATIENCE = 120


def built(folder: Path | None = None) -> Path:
    """The proved library for this CPU, made if need be. Raises KernelsUnavailable.

    ``folder`` None is ``$XDG_CACHE_HOME/tailrace/kernels``, or the same under ``~/.cache``.
    """
    isa = read_isa()
    if missing := sorted(NEEDED - set(isa.sets)):
        raise KernelsUnavailable(f"this CPU has no {' and no '.join(missing)}")
    compiler = _compiler()
    folder = folder or cache_folder() / "kernels"
    sources = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))]
    facts = (*sources, repr((_FLAGS, isa.sets, platform.platform(), _version(compiler))).encode())
    library = folder / f"{hashlib.sha256(b''.join(facts)).hexdigest()[:24]}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _build(compiler, library)
    except OSError as error:
        raise KernelsUnavailable(f"{folder} can't be written: {error}") from error
    return library


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise KernelsUnavailable("there is no C compiler to make them with (Debian, Ubuntu: sudo apt install gcc)")


def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _build(compiler: str, library: Path) -> None:
    """Into a place of its own first: what stands under the final name has been proved."""
    with tempfile.TemporaryDirectory(dir=library.parent) as place:
        draft = Path(place) / "kernels.so"
        _run([compiler, *_FLAGS, "-o", str(draft), *map(str, sorted(FOLDER.glob("*.c")))])
        if wrong := wrong_results(ctypes.CDLL(str(draft))):
            raise KernelsUnavailable(f"{compiler} makes code that computes {', '.join(wrong)} wrongly")
        os.replace(draft, library)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except subprocess.CalledProcessError as error:
        raise KernelsUnavailable(f"{command[0]} can't compile them: {error.stderr.strip()[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailable(f"{command[0]} can't compile them: {error}") from error
    return done.stdout
