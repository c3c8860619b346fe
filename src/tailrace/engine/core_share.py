"""Divides the cores among the engines of one server that compute at the same time.

Two engines with as many threads as cores each would wait at every barrier for threads that the other has displaced. So
an engine that computes shows it on the ``cores_page``, and takes its part of the planned threads and CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.engine.backends.base import Backend
from tailrace.shared_memory.cores_page import CoresPage

#: Seconds for which fewer engines have to compute before an engine takes their cores. Pauses between an engine's
#: requests are shorter than this only where they come one after the other.
_GROW_SECONDS = 0.02


class CoreShare:
    """One engine's part. The loop's thread alone uses it."""

    def __init__(self, page: CoresPage, number: int, cores: int, backends: Sequence[Backend]) -> None:
        """``number``: the engine's on the page; ``cores``: which it uses (``cores_of``); ``backends``: all that compute
        in its loop.
        """
        self._page = page
        self._number = number
        self._cores = cores
        self._backends = backends
        self._part = (0, 1)  #: the applied one: place among the engines that compute, and how many they are
        self._fewer_since: float | None = None
        self._shown = False
        self.end_work()

    def before_step(self, now: float) -> None:
        """The engine computes now: take the part that it has of the cores. ``now``: seconds of any one clock."""
        if not self._shown:
            self._page.show(self._number, self._cores)
            self._shown = True
        part = self._page.position(self._number, self._cores)
        if part == self._part:
            self._fewer_since = None
            return
        if part[1] < self._part[1]:
            if self._fewer_since is None:
                self._fewer_since = now
            if now - self._fewer_since < _GROW_SECONDS:
                return
        self._fewer_since = None
        self._part = part
        for backend in self._backends:
            backend.share_cores(*part)

    def end_work(self) -> None:
        """The engine computes nothing until ``before_step``."""
        self._shown = False
        self._page.show(self._number, 0)
