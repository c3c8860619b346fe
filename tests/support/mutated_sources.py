"""Sources in C with one thing wrong in them, to see that it is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path


def mutate_source(sources: Path, folder: Path, right: str, wrong: str) -> Path:
    """A copy of ``sources`` as ``folder``, in which ``right``, which one of its files has, has become ``wrong``."""
    changed = shutil.copytree(sources, folder)
    found = [path for path in changed.rglob("*.[ch]") if right in path.read_text(encoding="utf-8")]
    assert len(found) == 1
    found[0].write_text(found[0].read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    return changed
