"""When a dead child is started again, and when the server gives up. Pure policy over numbers.

A child that never became ready is given up soon: its settings or its model are the same at the next start. A child that
has served is started again, unless it keeps dying soon after each start.
"""

from __future__ import annotations

#: Seconds before a dead child is started again: the first time at once, then longer while it keeps dying.
_BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Seconds until the next try after the system has refused a start.
_REFUSED_SECONDS = 0.5
#: After serving for this time a child's earlier deaths no longer count.
_HEALTHY_SECONDS = 60.0
#: Deaths in a row before a child was ready.
_MAX_UNREADY = 3


class Restarts:
    """The deaths of one child."""

    def __init__(self, limit: int) -> None:
        """``limit``: deaths in a row, each soon after the child was ready, after which it is given up; 0: never."""
        self._limit = limit
        self.unready = 0  #: deaths in a row before it was ready
        self.in_a_row = 0  #: deaths in a row, each within a minute of the start

    def died(self, lived: float, *, ready: bool) -> float | None:
        """Seconds until the next start; None: it is given up. ``lived``: seconds; ``ready``: whether it has served."""
        self.unready = 0 if ready else self.unready + 1
        self.in_a_row = 1 if ready and lived >= _HEALTHY_SECONDS else self.in_a_row + 1
        if self.unready >= _MAX_UNREADY or 0 < self._limit <= self.in_a_row:
            return None
        return self.delay

    def start_failed(self) -> float:
        """Seconds until the next try, where the system had no process or no memory for one."""
        self.in_a_row += 1
        return max(self.delay, _REFUSED_SECONDS)

    @property
    def delay(self) -> float:
        """Seconds until the next start."""
        return _BACKOFF[min(self.in_a_row, len(_BACKOFF)) - 1]
