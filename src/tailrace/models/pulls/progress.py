"""What a pull reports while it runs, and the lines in which its process says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

#: ``manifest``: which files there are is being read; ``verify``: bytes that are here are read and hashed; ``wait``: a
#: pause before the next attempt, or another process downloads the file; ``write``: the files get their names.
Stage = Literal["manifest", "download", "verify", "wait", "write"]


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """One report. Bytes are 0 where they aren't known."""

    stage: Stage
    file: str = ""  #: the file's name at its source
    digest: str = ""  #: the file's, as ``sha256:`` and hexadecimal digits
    done: int = 0  #: bytes of this file
    total: int = 0
    all_done: int = 0  #: bytes of all files of the model
    all_total: int = 0
    note: str = ""  #: for people: what is waited for, or a part of the model that isn't used here


class Pulled(msgspec.Struct, frozen=True, kw_only=True, tag="pulled"):
    """The end of a pull: the model's first file, and whether all was here already."""

    path: str
    bytes: int  #: of all files
    present: bool


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The end of a pull that failed; see ``PullFailed``."""

    message: str
    reason: str


#: A line that a pull's process writes.
Line = Progress | Pulled | Failed

#: Receives each report. An exception of it ends the pull.
OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """A callback that does nothing."""
