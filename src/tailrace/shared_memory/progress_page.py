"""The page of shared memory in which a child process reports its progress to the supervisor.

The child writes and the supervisor reads. Each child gets a new page at each start, as an inherited file descriptor. A
report is one store into memory: no message can wait behind a blocked socket, and nothing is lost when the child dies.
This module has the page and the length of an acceptable silence. It decides nothing about restarts.
"""

from __future__ import annotations

import enum
import mmap
import time

from tailrace.shared_memory.memory_file import PAGE_BYTES

#: The message begins here; the numbers lie in front of it.
_TEXT = 512
_BEAT, _LONGEST, _HELPER, _PHASE, _SERVED, _READY, _RELOADS, _LENGTH, _GROWTH, _MAPPED, _WAITS = range(11)
#: A silence of this number of steps, each as long as the longest one, is a hang.
_STEPS = 5


class Phase(enum.IntEnum):
    """What a process does."""

    STARTING = 0  #: Python starts
    LOADING = 1  #: the engine loads its model, or has no connection
    SERVING = 2


def allowed_silence(hang_seconds: float, longest: float) -> float:
    """Seconds without progress after which a process hangs. ``longest``: seconds of its longest step."""
    return max(hang_seconds, _STEPS * longest)


class ProgressPage:
    """One process's page. A process that isn't supervised has a private one, which no other process reads."""

    def __init__(self, fd: int = -1) -> None:
        """Map a page of ``memory_file.create_page``; -1: a private one. ``fd`` may be closed then."""
        self._map = mmap.mmap(fd, PAGE_BYTES)
        # Aligned eight bytes are stored and loaded in one piece.
        self._numbers = memoryview(self._map)[:_TEXT].cast("d")

    def beat(self, now: float) -> None:
        """The loop makes progress. ``now``: this process's monotonic clock; any other value would do, too."""
        self._numbers[_BEAT] = now

    @property
    def beats(self) -> float:
        """A number that changes with each ``beat``."""
        return self._numbers[_BEAT]

    @property
    def longest(self) -> float:
        """Seconds of the longest step; for an engine that has made none, an upper estimate."""
        return self._numbers[_LONGEST]

    @longest.setter
    def longest(self, seconds: float) -> None:
        self._numbers[_LONGEST] = seconds

    @property
    def helper(self) -> float:
        """When a helper thread began the item that it works on, of all threads the earliest; 0 while they wait."""
        return self._numbers[_HELPER]

    @helper.setter
    def helper(self, begun: float) -> None:
        self._numbers[_HELPER] = begun

    @property
    def phase(self) -> Phase:
        """What the process does."""
        return Phase(int(self._numbers[_PHASE]))

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._numbers[_BEAT] = time.monotonic()
        if phase == Phase.SERVING:
            self._numbers[_SERVED] = 1.0
        self._numbers[_PHASE] = phase

    @property
    def has_served(self) -> bool:
        """Whether the process has been in the phase ``SERVING``."""
        return self._numbers[_SERVED] != 0.0

    @property
    def ready(self) -> bool:
        """Whether the HTTP process has had an engine and has announced it."""
        return self._numbers[_READY] != 0.0

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._numbers[_READY] = ready

    @property
    def reloads(self) -> int:
        """How often the HTTP process has reloaded its files after a SIGHUP."""
        return int(self._numbers[_RELOADS])

    @reloads.setter
    def reloads(self, count: int) -> None:
        self._numbers[_RELOADS] = count

    @property
    def growth(self) -> float:
        """Bytes that the engine may still allocate for its KV cache and its prefix cache."""
        return self._numbers[_GROWTH]

    @growth.setter
    def growth(self, size: float) -> None:
        self._numbers[_GROWTH] = size

    @property
    def mapped(self) -> float:
        """Bytes of mapped model files that the engine's steps read."""
        return self._numbers[_MAPPED]

    @mapped.setter
    def mapped(self, size: float) -> None:
        self._numbers[_MAPPED] = size

    @property
    def waits_for_worker(self) -> bool:
        """Whether the engine can't load its model before a worker is there."""
        return self._numbers[_WAITS] != 0.0

    @waits_for_worker.setter
    def waits_for_worker(self, waits: bool) -> None:
        self._numbers[_WAITS] = waits

    @property
    def message(self) -> str:
        """The reason that the process gave for its death, or the last error of llama.cpp; empty: none."""
        length = min(int(self._numbers[_LENGTH]), PAGE_BYTES - _TEXT)
        return self._map[_TEXT : _TEXT + length].decode("utf-8", "replace")

    @message.setter
    def message(self, text: str) -> None:
        data = text.encode("utf-8", "replace")[: PAGE_BYTES - _TEXT]
        self._map[_TEXT : _TEXT + len(data)] = data
        self._numbers[_LENGTH] = len(data)

    def close(self) -> None:
        """Unmap it."""
        self._numbers.release()
        self._map.close()
