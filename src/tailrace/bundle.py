"""The compiled files that a wheel for one kind of machine brings along: llama.cpp, its binding, and our own C.

A wheel has them in ``bundled/`` of this package, a checkout hasn't. ``scripts/make_wheel.py`` writes the folder; this
module only finds things in it. It must not import the binding, which may be loaded after the kernels alone.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

#: Where a wheel has the files.
FOLDER = Path(__file__).parent / "bundled"
#: In it: the binding's package and its metadata, as a folder of ``sys.path``; libraries, by name and tier.
_PACKAGES, _LIBRARIES, _RECORD = "packages", "libraries", "bundle.json"


def is_there() -> bool:
    """Whether this installation is a wheel with compiled files."""
    return compiler() is not None


@functools.cache
def compiler() -> str | None:
    """The compiler that made the bundled files; None in an installation without them."""
    try:
        return str(json.loads((FOLDER / _RECORD).read_text(encoding="utf-8"))["compiler"])
    except FileNotFoundError:
        return None


def expose_binding() -> None:
    """Let the bundled binding be found, before any other that is installed: the kernels are made for its version."""
    packages = str(FOLDER / _PACKAGES)
    if is_there() and packages not in sys.path:
        sys.path.insert(0, packages)


def library(name: str, tier: str) -> Path | None:
    """The bundled library of tailrace's own for a tier; None where there is none."""
    path = FOLDER / _LIBRARIES / f"{name}-{tier}.so"
    return path if path.is_file() else None
