"""How late the event loop is: each millisecond of it delays all streams."""

from __future__ import annotations

import time

#: Seconds of one window; the lag is the worst of the last two.
_WINDOW_SECONDS = 2.0


class LoopLag:
    """The largest delay of the requests' timer in the last seconds."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._worst = (0.0, 0.0)  #: seconds, in the last window and in the running one

    def add(self, late: float, now: float | None = None) -> None:
        """The timer has run ``late`` seconds after its time."""
        self._advance(time.monotonic() if now is None else now)
        last, current = self._worst
        self._worst = (last, max(current, late))

    def worst(self, now: float | None = None) -> float:
        """The largest delay of the last two windows, in seconds."""
        self._advance(time.monotonic() if now is None else now)
        return max(self._worst)

    def _advance(self, now: float) -> None:
        passed = now - self._begun
        if passed >= _WINDOW_SECONDS:
            self._worst = (self._worst[1] if passed < 2 * _WINDOW_SECONDS else 0.0, 0.0)
            self._begun = now
