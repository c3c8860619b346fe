"""When a silent child is a hung one. It reads the child's page and the kernel's state of the process; it ends nothing.

Silence is counted in looks of the supervisor and not taken from a clock. So a machine that was suspended, and processes
that were stopped and continued together, add one look of silence at most.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.observe.kernel_file import first_number, read_fields, read_text
from tailrace.observe.process_stats import split_stat
from tailrace.shared_memory.progress_page import Phase, ProgressPage, allowed_silence

#: Seconds without progress while a model loads. One call of llama.cpp, a conversion's part and a compiler's run are
#: silent, each for minutes on slow disks.
_LOADING_SECONDS = 600.0
#: Silence after which the kernel is asked whether the process is stopped.
_SUSPICIOUS_SECONDS = 1.5


class Watch:
    """The silence of one run of a child."""

    def __init__(self, page: ProgressPage, pid: int, hang_seconds: float, proc: Path = Path("/proc")) -> None:
        """``proc``: the kernel's states of processes; where there are none, no process counts as stopped."""
        self._page = page
        self._hang_seconds = hang_seconds
        self._process = proc / str(pid)
        self._beats = page.beats
        self._helper = 0.0
        self._stuck = 0.0  #: seconds that a helper thread has worked on one item
        self._stopped = 0.0
        self.silent = 0.0  #: seconds without progress
        self.is_stopped = False  #: by SIGSTOP, as of the last look

    def look(self, seconds: float) -> str | None:
        """Count ``seconds`` since the last look. Returns why the process hangs; None: it doesn't."""
        page = self._page
        if (beats := page.beats) != self._beats:
            self._beats, self.silent = beats, 0.0
        else:
            self.silent += seconds
        if (helper := page.helper) != self._helper or not helper:
            self._helper, self._stuck = helper, 0.0
        else:
            self._stuck += seconds
        self.is_stopped = self.silent >= _SUSPICIOUS_SECONDS and self._state() == "T"
        self._stopped = self._stopped + seconds if self.is_stopped else 0.0
        reason = self._reason()
        return None if reason is not None and self._is_traced() else reason

    def excuse(self) -> None:
        """Begin to count anew: what happened was not this process's fault."""
        self.silent = self._stuck = self._stopped = 0.0

    def _reason(self) -> str | None:
        hang_seconds = self._hang_seconds
        if self.is_stopped and self._stopped >= hang_seconds:
            return f"it is stopped (SIGSTOP), for {self.silent:.0f} s"
        if self._page.phase != Phase.SERVING:
            limit = max(hang_seconds, _LOADING_SECONDS)
            return f"no progress for {self.silent:.0f} s while it starts" if self.silent > limit else None
        limit = allowed_silence(hang_seconds, self._page.longest)
        if self.silent > limit:
            return f"no progress for {self.silent:.0f} s; the limit is {limit:.0f} s"
        if self._stuck > limit:
            return f"a helper thread has worked on one item for {self._stuck:.0f} s; the limit is {limit:.0f} s"
        return None

    def _state(self) -> str:
        """The kernel's letter: T is stopped by a signal, t by a debugger."""
        stat = split_stat(read_text(self._process / "stat"))
        return "" if stat is None else stat.state

    def _is_traced(self) -> bool:
        """Whether a debugger is attached: then a long stop is meant."""
        return first_number(read_fields(self._process / "status").get("TracerPid", "")) != 0
