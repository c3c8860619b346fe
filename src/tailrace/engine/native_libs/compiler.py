"""Runs the machine's C compiler: finds it, compiles sources in parallel, links them into one library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tailrace.engine.native_libs import NativeUnavailable
from tailrace.machine.binding import bound_cpus

#: Only the tier's flags follow. ``-march=native`` would add whatever the compiling machine has beside them.
COMPILE_FLAGS = ("-O3", "-fPIC", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Werror=switch")
#: With ``-Bsymbolic`` the library calls its own functions, even where the process has loaded another library that
#: exports the same names.
#: macOS's linker binds them so anyway and doesn't know the option.
LINK_FLAGS = ("-shared",) if sys.platform == "darwin" else ("-shared", "-Wl,-Bsymbolic")
#: For one file. The slowest takes 15 s, and ten times as long beside processes that keep all cores busy.
_TIMEOUT_SECONDS = 600
#: How much of the compiler's output a message repeats.
_MAX_QUOTED = 500
_STATIC_ASSERTION = re.compile(r"static assertion failed(?: due to requirement '[^']*')?: \"?([^\"\n]+)\"?")


@dataclass(frozen=True)
class Compiler:
    """A C compiler, and what it says of its version."""

    path: str
    version: str

    def build(
        self, sources: Sequence[tuple[str, Path]], flags: Sequence[str], library: Path, link_flags: Sequence[str] = ()
    ) -> None:
        """Compile ``sources`` (pairs of an object's name and a C file) and link them as ``library``; the objects lie
        beside it. Raises NativeUnavailable.
        """
        # In parallel: a user waits for a model meanwhile.
        with ThreadPoolExecutor(len(bound_cpus()) or 1) as pool:
            objects = [library.with_name(f"{name}.o") for name, _ in sources]
            running = [
                pool.submit(_run, [self.path, *COMPILE_FLAGS, *flags, "-c", "-o", str(made), str(source)])
                for made, (_, source) in zip(objects, sources, strict=True)
            ]
            try:
                for each in running:
                    each.result()
            finally:
                pool.shutdown(cancel_futures=True)  # After an error the other files needn't be compiled.
        _run([self.path, *LINK_FLAGS, "-o", str(library), *map(str, objects), *link_flags])


def find_compiler() -> Compiler:
    """The C compiler of this machine: ``$CC``, else cc, gcc or clang. Raises NativeUnavailable."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return Compiler(found, _run([found, "--version"]).strip())
    raise NativeUnavailable("there is no C compiler (Debian, Ubuntu: sudo apt install gcc)")


def _run(command: list[str]) -> str:
    # Messages in the user's language would hide failed assertions.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True, env=environment
        )
    except subprocess.CalledProcessError as error:
        raise NativeUnavailable(f"{command[0]} can't compile it: {_reason(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{command[0]} can't compile it: {error}") from error
    return done.stdout


def _reason(output: str) -> str:
    """The assertions that failed, or the first error, of a compiler's ``output``."""
    if failed := list(dict.fromkeys(_STATIC_ASSERTION.findall(output))):
        return f"static assertion failed: {'; '.join(failed)}"
    error = output.find("error:")
    start = output.rfind("\n", 0, error) + 1 if error >= 0 else 0
    return output[start:].strip()[:_MAX_QUOTED]
