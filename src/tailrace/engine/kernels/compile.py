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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tailrace.engine.kernels import KernelsUnavailable
from tailrace.folders import cache_folder
from tailrace.machine.binding import bound_cpus
from tailrace.machine.isa import read_isa

_FLAGS = ("-O3", "-march=native", "-fPIC", "-std=gnu11")
#: Its parts call each other's functions and no others by these names: another library of the kind may be loaded
#: already, and what is proved would be that one.
_LINKED = ("-shared", "-Wl,-Bsymbolic")
#: Seconds for one file; the longest takes three.
_PATIENCE = 120


def compiled(
    sources: Path,
    wrong_results: Callable[[ctypes.CDLL], list[str]],
    folder: Path | None = None,
    flags: Sequence[str] = (),
) -> Path:
    """The library of all ``*.c`` in ``sources``, made if need be; ``flags`` follow the usual ones. Raises
    KernelsUnavailable.

    It is kept in ``folder``, by default ``$XDG_CACHE_HOME/tailrace/kernels`` or the same under ``~/.cache``, and only
    when ``wrong_results`` has found none in it.
    """
    compiler = _compiler()
    folder = folder or cache_folder() / "kernels"
    texts = [path.read_bytes() for path in sorted(sources.glob("*.[ch]"))]
    flags = (*_FLAGS, *flags)
    facts = (*texts, repr((flags, _LINKED, read_isa().sets, platform.platform(), _version(compiler))).encode())
    library = folder / f"{hashlib.sha256(b''.join(facts)).hexdigest()[:24]}.so"
    if library.is_file():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Into a place of its own first: what stands under the final name has been proved.
        with tempfile.TemporaryDirectory(dir=folder) as place:
            draft = Path(place) / "kernels.so"
            objects = _objects([compiler, *flags], sorted(sources.glob("*.c")), Path(place))
            _run([compiler, *_LINKED, "-o", str(draft), *map(str, objects)])
            if wrong := wrong_results(ctypes.CDLL(str(draft))):
                raise KernelsUnavailable(f"{compiler} makes code that computes {', '.join(wrong)} wrongly")
            os.replace(draft, library)
    except OSError as error:
        raise KernelsUnavailable(f"{folder} can't be written: {error}") from error
    return library


def _objects(compiler: Sequence[str], sources: Sequence[Path], folder: Path) -> list[Path]:
    """The sources compiled into ``folder``, as many at a time as there are CPUs: somebody waits for a model."""
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(len(bound_cpus()) or 1) as pool:
        compiling = [
            pool.submit(_run, [*compiler, "-c", "-o", str(made), str(source)])
            for source, made in zip(sources, objects, strict=True)
        ]
        for each in compiling:
            each.result()
    return objects


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
