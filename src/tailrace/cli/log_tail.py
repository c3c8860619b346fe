"""The end of a log file, and what is added to it. Knows no terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tailrace.observe.log_file import older

_LOOK_SECONDS = 0.2
_PIECE = 1 << 20


def last_lines(path: Path, count: int, end: int) -> list[str]:
    """The last ``count`` lines before the byte ``end`` of the log, with those that were moved to the second file."""
    data = older(path).read_bytes() if older(path).exists() else b""
    if path.exists():
        with path.open("rb") as file:
            data += file.read(end)
    lines = data.decode("utf-8", "replace").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines[-count:] if count else []


def follow(path: Path, start: int, goes_on: Callable[[], bool]) -> Iterator[str]:
    """The text that is added behind the byte ``start``, until ``goes_on`` says that the server has ended.

    A file that has become shorter was emptied, and is read from its beginning.
    """
    with path.open("rb") as file:
        position, last_look = start, False
        while True:
            if os.fstat(file.fileno()).st_size < position:
                position = 0
            if data := os.pread(file.fileno(), _PIECE, position):
                position += len(data)
                yield data.decode("utf-8", "replace")
                continue
            if last_look:
                return
            # Lines may come between the read and the end, so there is one more read.
            last_look = not goes_on()
            if not last_look:
                time.sleep(_LOOK_SECONDS)
