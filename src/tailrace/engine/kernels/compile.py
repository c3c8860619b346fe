"""Compiles a folder of C for this machine's CPU, once: what comes out is proved, then kept in the user's cache.

It knows nothing of what the code is for.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.folders import cache_folder
from tailrace.machine.isa import read_isa

_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11")
#: Seconds; it takes about five.
_PATIENCE = 120


def compiled(
    sources: Path,
    wrong_results: Callable[[ctypes.CDLL], list[str]],
    folder: Path | None = None,
) -> Path:
    """The library of all ``*.c`` in ``sources``, made if need be. Raises KernelsUnavailable.

    It is kept in ``folder``, by default ``$XDG_CACHE_HOME/tailrace/kernels`` or the same under ``~/.cache``, and only
    when ``wrong_results`` has found none in it.
    """
    compiler = _compiler()
    folder = folder or cache_folder() / "kernels"
    texts = [path.read_bytes() for path in sorted(sources.glob("*.[ch]"))]
    facts = (*texts, repr((_FLAGS, read_isa().sets, platform.platform(), _version(compiler))).encode())
    library = folder / f"{hashlib.sha256(b''.join(facts)).hexdigest()[:24]}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Into a place of its own first: what stands under the final name has been proved.
        with tempfile.TemporaryDirectory(dir=folder) as place:
            draft = Path(place) / "kernels.so"
            _run([compiler, *_FLAGS, "-o", str(draft), *map(str, sorted(sources.glob("*.c")))])
            if wrong := wrong_results(ctypes.CDLL(str(draft))):
                raise KernelsUnavailable(f"{compiler} makes code that computes {', '.join(wrong)} wrongly")
            os.replace(draft, library)
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


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except subprocess.CalledProcessError as error:
        raise KernelsUnavailable(f"{command[0]} can't compile them: {error.stderr.strip()[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailable(f"{command[0]} can't compile them: {error}") from error
    return done.stdout
