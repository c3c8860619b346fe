"""The processes that descend from this one, by Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class Descendant(NamedTuple):
    """One process: its id, its parent's, and the words of its command line."""

    pid: int
    parent: int
    words: list[bytes]


def find_descendants(ancestor: int | None = None) -> list[Descendant]:
    """All descendants of a process, by id; None: of this one."""
    root = os.getpid() if ancestor is None else ancestor
    found: dict[int, Descendant] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # The process has just ended, or is another user's.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            pid = int(folder.name)
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[pid] = Descendant(pid, parent, (folder / "cmdline").read_bytes().split(b"\0"))

    def is_descendant(pid: int) -> bool:
        while pid in found and pid != root:
            pid = found[pid].parent
        return pid == root

    return [found[pid] for pid in sorted(found) if pid != root and is_descendant(pid)]
