"""The two consoles of the commands, and how a size is written."""

from __future__ import annotations

import sys

from rich.console import Console

#: Columns for a pipe or a file, which have no width of their own: wide enough that no path is broken.
PIPE_WIDTH = 400
# Both consoles leave words between colons as they are: rich would make an emoji of the port in "127.0.0.1:-1:".


def stdout() -> Console:
    """The console for results. A new one for each call, because tests and shells exchange the stream."""
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """The console for progress and errors, so that results can be piped without them."""
    width = None if sys.stderr.isatty() else PIPE_WIDTH
    return Console(highlight=False, emoji=False, stderr=True, width=width)


def size(count: int) -> str:
    """Bytes as people read them, in decimal units: ``98.4 MB``."""
    if count < 1000:
        return f"{count} B"
    value, unit = count / 1000, "kB"
    for bigger in ("MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, bigger
    return f"{value:.1f} {unit}"
