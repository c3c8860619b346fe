"""A C compiler that compiles equal code once: tests that change one file of a library compile that file alone.

Run as ``python object_cache.py COMPILER FOLDER ARGUMENTS...``. An object is found by its file, all headers that the
file includes, and the flags. ``install`` makes a program of it that ``$CC`` can name.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path


def install(compiler: str, folder: Path) -> Path:
    """A program in ``folder`` that compiles as ``compiler`` does. The objects lie beside it."""
    program = folder / "cached-cc"
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -S -E "{Path(__file__).resolve()}" "{compiler}" "{folder}" "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o700)
    return program


def main(compiler: str, folder: Path, arguments: list[str]) -> int:
    """Compile, or copy the object of equal code. Returns the compiler's exit status."""
    if "-c" not in arguments or "-fsyntax-only" in arguments:
        return subprocess.run([compiler, *arguments], check=False).returncode
    made, source = Path(arguments[arguments.index("-o") + 1]), Path(arguments[-1])
    headers = [Path(flag.removeprefix("-I")) for flag in arguments if flag.startswith("-I")]
    headers += [Path(path) for flag, path in pairwise(arguments) if flag == "-isystem"]
    digest = hashlib.sha256(repr([flag for flag in arguments if "/" not in flag]).encode())
    for path in _included(source, headers):
        digest.update(path.read_bytes())
    stored = folder / f"{digest.hexdigest()}.o"
    if stored.exists():
        shutil.copyfile(stored, made)
        return 0
    status = subprocess.run([compiler, *arguments], check=False).returncode
    if status == 0:
        draft = stored.with_suffix(f".{os.getpid()}")
        shutil.copyfile(made, draft)
        os.replace(draft, stored)
    return status


def _included(source: Path, headers: list[Path]) -> list[Path]:
    """The file, and all files that it includes by a name in quotes, in the order of their first inclusion."""
    found: dict[Path, None] = {}
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found[path] = None
            names = re.findall(r'^ *# *include *"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
            # A name that lies in several folders counts as all of them: then the key is only stricter.
            waiting += [(parent / name).resolve() for name in names for parent in (path.parent, *headers)]
    return list(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
