"""Whether what a pull will write fits on the disk, and an OSError of the disk in words."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from tailrace.errors import PullFailed

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def check_space(folder: Path, needed: int, remedy: str) -> None:
    """Raise PullFailed unless ``needed`` bytes more fit where ``folder`` is, or will be. ``remedy``: which variable
    moves the folder.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise disk_failure(folder, error, remedy) from error
    if needed > free:
        raise PullFailed(
            f"{_size(needed)} are needed in {folder}, and {_size(free)} are free there. Make room, or {remedy}",
            reason="disk",
        )


def disk_failure(folder: Path, error: OSError, remedy: str) -> PullFailed:
    """The failure for an OSError of a file below ``folder``."""
    if error.errno in _FULL:
        return PullFailed(
            f"the disk of {folder} is full. Make room and pull again, which goes on where it ended; or {remedy}",
            reason="disk",
        )
    # The error's text has the whole path, which is the file's that couldn't be written.
    return PullFailed(f"{folder} can't be written: {error}. Correct its rights, or {remedy}", reason="disk")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
