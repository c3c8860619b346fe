"""Shows a pull's progress on standard error: bars on a terminal, and few plain lines elsewhere."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from tailrace.cli import console_output
from tailrace.models.pulls.progress import Progress

#: Max and min columns for a file's name; its end tells shards and quantisations apart.
_NAME_WIDTH, _MIN_NAME_WIDTH = 40, 12
#: The same for a bar.
_BAR_WIDTH, _MIN_BAR_WIDTH = 40, 8
#: Columns for a line's other parts: what is done, sizes, speed and time, with a space between each.
_FACTS_WIDTH = 50
#: A plain line is written for each of so many parts of all bytes.
_LINES = 10

_WORDS = {"download": "downloading", "verify": "verifying", "wait": "waiting"}


class PullDisplay(Protocol):
    """Receives a pull's reports. ``end`` leaves the terminal as it was; it may be called again."""

    def show(self, progress: Progress) -> None:
        """Show a report."""
        ...

    def end(self) -> None:
        """See the class."""
        ...


def pull_display() -> PullDisplay:
    """The display for where standard error goes."""
    console = console_output.stderr()
    return _BarDisplay(console) if console.is_terminal else _LineDisplay(console)


class _BarDisplay:
    """A bar for the file that comes now, and one for all where there are several."""

    def __init__(self, console: Console) -> None:
        # A line that doesn't fit would be wrapped within its columns.
        free = console.width - _FACTS_WIDTH
        self._name_width = max(_MIN_NAME_WIDTH, min(_NAME_WIDTH, free - _MIN_BAR_WIDTH))
        bar = BarColumn(max(_MIN_BAR_WIDTH, min(_BAR_WIDTH, free - self._name_width)))
        columns = (TextColumn("{task.description}", markup=False), bar, DownloadColumn(), TransferSpeedColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=console)
        self._file: tuple[str, str] | None = None  #: the bar's file, and whether it is verified or downloaded
        self._file_bar: TaskID | None = None
        self._all_bar: TaskID | None = None
        self._note = ""

    def show(self, progress: Progress) -> None:
        if progress.note and progress.note != self._note:
            self._bars.console.print(escape(progress.note), style="dim", soft_wrap=True)
        self._note = progress.note
        if not progress.total:
            return
        if not self._bars.live.is_started:
            self._bars.start()
        what = _WORDS.get(progress.stage, progress.stage)
        if self._file != (progress.file, what):
            self._file = (progress.file, what)
            if self._file_bar is not None:
                self._bars.remove_task(self._file_bar)
            # It begins where the file is, so that its speed is that of the network.
            self._file_bar = self._bars.add_task(
                f"{what} {_short(progress.file, self._name_width)}", total=progress.total, completed=progress.done
            )
        if self._file_bar is not None:
            self._bars.update(self._file_bar, completed=progress.done, total=progress.total)
        if progress.all_total == progress.total:
            return
        if self._all_bar is None:
            self._all_bar = self._bars.add_task("all files", total=progress.all_total, completed=progress.all_done)
        self._bars.update(self._all_bar, completed=progress.all_done)

    def end(self) -> None:
        # Not started where nothing was fetched: stopping it then would still write an empty line.
        if self._bars.live.is_started:
            self._bars.stop()


class _LineDisplay:
    """A line for each file, for each tenth of all bytes, and for each note."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._file: tuple[str, str] | None = None
        self._part = 0
        self._note = ""

    def show(self, progress: Progress) -> None:
        if progress.note and progress.note != self._note:
            self._write(progress.note)
        self._note = progress.note
        if not progress.total:
            return
        what = _WORDS.get(progress.stage, progress.stage)
        if self._file != (progress.file, what):
            self._file = (progress.file, what)
            self._write(f"{what} {progress.file}: {console_output.size(progress.total)}")
        part = progress.all_done * _LINES // max(1, progress.all_total)
        if progress.stage == "download" and part > self._part:
            self._part = part
            self._write(f"{part * 100 // _LINES}% of {console_output.size(progress.all_total)}")

    def end(self) -> None:
        """See ``PullDisplay``."""

    def _write(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True)


def _short(name: str, width: int) -> str:
    """A file's name without its folder, and where it has more than ``width`` characters, without its beginning."""
    name = name.rpartition("/")[2]
    return escape(name if len(name) <= width else f"…{name[1 - width :]}")
