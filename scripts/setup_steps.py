"""What set-up prints: its steps with their times, and the progress of a long one.

Everything is readable in a terminal and in a plain log alike. Runs on the standard library alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def write_now(text: str) -> None:
    """Write to standard output, at once even into a pipe."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """One line for the user."""
    write_now(f"setup: {text}\n")


def clock_time(seconds: float) -> str:
    """Such as ``7 s`` or ``2:05 min``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


class Steps:
    """The steps of one set-up, numbered, with the time that each took."""

    def __init__(
        self, count: int, *, write: Callable[[str], object] = write_now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._write = write
        self._clock = clock
        self._start = clock()
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Say what is done in the block, and at its end how long it took. A failure's own words follow instead."""
        self._number += 1
        self._count = max(self._count, self._number)
        self._write(f"[{self._number}/{self._count}] {title}\n")
        start = self._clock()
        yield
        self._write(f"      done in {clock_time(self._clock() - start)}\n")

    def finish(self) -> None:
        """Say how long all took, where anything was done."""
        if self._number:
            self._write(f"setup: ready after {clock_time(self._clock() - self._start)}\n")


class ProgressLine:
    """A bar that redraws itself on a terminal; elsewhere a line at every tenth of the way."""

    def __init__(self, *, terminal: bool, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._terminal = terminal
        self._write = write
        self._clock = clock
        self._start: float | None = None
        self._tenth = 0
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps are made. The clock starts with the first."""
        now = self._clock()
        if self._start is None:
            self._start = now
        fraction = done / max(total, 1)
        seconds = int(now - self._start)
        # The first steps say little: they are the large ones.
        rest = f", about {clock_time(seconds / fraction - seconds)} left" if 0.1 <= fraction < 1 else ""
        words = f"{fraction:4.0%}  {seconds // 60}:{seconds % 60:02d}  file {done} of {total}{rest}"
        self._shown = True
        if self._terminal:
            filled = int(fraction * 30)
            self._write(f"\r      [{'#' * filled}{'.' * (30 - filled)}] {words}\033[K")
        elif int(fraction * 10) > self._tenth:
            self._tenth = int(fraction * 10)
            self._write(f"      {words}\n")

    def end(self) -> None:
        """Leave the bar's line, so that the next words start on their own."""
        if self._terminal and self._shown:
            self._write("\n")
